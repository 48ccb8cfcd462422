"""The part files of a log are known by their footers, and whoever reads one compares its checksum."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rayrec.data.pieces import LogPieces
from rayrec.workspace.files import WorkspaceError, checksum
from rayrec.workspace.parts import write_part

DISK = pafs.LocalFileSystem()


@pytest.fixture
def digests(tmp_path: Path) -> dict[str, str]:
    """Three part files, one of them empty."""
    columns = {"user_id": ["u"] * 5, "video_id": ["v"] * 5, "shown_at": [1, 2, 3, 3, 4], "clicked": [True] * 5}
    log = pa.table(columns | {"device": ["d"] * 5})
    slices = ((0, 2), (2, 0), (2, 3))
    paths = [write_part(DISK, str(tmp_path), "interactions", number, log.slice(*each)) for number, each in enumerate(slices)]
    return {path: checksum(DISK, path) for path in paths}


def test_pieces_are_numbered_and_dated(digests: dict[str, str]) -> None:
    log = LogPieces.of(DISK, digests)
    assert [(piece.first, piece.rows, piece.begin, piece.end) for piece in log.pieces] == [(0, 2, 1, 2), (2, 3, 3, 4)]
    assert log.rows == 5
    rows = log.pieces[1].read(DISK, ["device", "shown_at", "nothing"])
    assert rows.to_pydict() == {"shown_at": [3, 3, 4], "device": ["d"] * 3}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[6] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (flip, r"is damaged \(its checksum differs\)"),
        (lambda path: os.truncate(path, 20), r"is damaged \(.*\)"),
        (Path.unlink, "is missing"),
    ],
    ids=["flipped", "cut", "gone"],
)
def test_a_damaged_piece_is_named(digests: dict[str, str], harm: Callable[[Path], None], problem: str) -> None:
    whole = LogPieces.of(DISK, digests)
    harm(Path(whole.pieces[1].path))
    sentence = rf"part-000002\.parquet {problem}; make it again: `rayrec ingest CONFIG --force`"
    with pytest.raises(WorkspaceError, match=sentence):
        read_all(digests)


def read_all(digests: dict[str, str]) -> list[pa.Table]:
    return [piece.read(DISK, ["shown_at"]) for piece in LogPieces.of(DISK, digests).pieces]
