"""Part files of features: what is written, what is copied, and what is left of a run that was killed."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rayrec.features.part_files import Copied, copy_rows, whole_parts, write_rows
from rayrec.features.rows import EXTRACTED, FAILED
from rayrec.tables import TableError
from rayrec.workspace.files import checksum

FS = pafs.LocalFileSystem()


def rows_of(states: dict[str, str]) -> pa.Table:
    """Rows of EXTRACTED without vectors, from {video_id: status}."""
    columns = {field.name: pa.nulls(len(states), field.type) for field in EXTRACTED}
    return pa.table(columns | {"video_id": list(states), "status": list(states.values())}).cast(EXTRACTED)


def facts(path: str) -> tuple[int, str]:
    return Path(path).stat().st_size, checksum(FS, path)


def test_videos_that_failed_are_told_and_not_written(tmp_path: Path) -> None:
    path = f"{tmp_path}/features/part-0.parquet"
    part = write_rows(str(tmp_path), path, rows_of({"a": "ok", "b": FAILED}), rows_of({"c": "partial"}))
    assert part.states.select(["video_id", "status"]).to_pydict() == {
        "video_id": ["a", "b", "c"],
        "status": ["ok", FAILED, "partial"],
    }
    assert pq.read_table(path)["video_id"].to_pylist() == ["a", "c"]
    assert part.facts == facts(path)
    none = write_rows(str(tmp_path), f"{tmp_path}/none.parquet", rows_of({"d": FAILED}))
    assert (none.states.num_rows, none.facts) == (1, None)
    assert not Path(none.path).exists()
    with pytest.raises(TableError, match="table features, column 'video_id', row 1: 'a' repeats the key"):
        write_rows(str(tmp_path), path, rows_of({"a": "ok"}), rows_of({"a": "ok"}))


def test_rows_are_copied_from_files_that_are_as_they_were_written(tmp_path: Path) -> None:
    written = [
        write_rows(str(tmp_path), f"{tmp_path}/{number}.parquet", rows_of({f"{number}a": "ok", f"{number}b": "ok"}))
        for number in range(4)
    ]
    Path(written[1].path).write_bytes(bytes(written[1].facts[0]))  # another content of the same size
    Path(written[2].path).unlink()
    sources = [Copied(part.path, part.facts, pa.array([number != 3, True])) for number, part in enumerate(written)]
    copy = copy_rows(str(tmp_path), f"{tmp_path}/copy.parquet", sources)
    assert copy.states["video_id"].to_pylist() == pq.read_table(copy.path)["video_id"].to_pylist() == ["0a", "0b", "3b"]
    assert copy.damaged == (written[1].path, written[2].path)


def test_what_a_killed_run_has_finished_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = f"{tmp_path}/features"
    whole = write_rows(str(tmp_path), f"{folder}/part-0.parquet", rows_of({"a": "ok"}))
    Path(f"{folder}/part-1.parquet").write_bytes(b"PAR1 torn")
    Path(f"{folder}/part-2.parquet.new").write_bytes(Path(whole.path).read_bytes())
    with caplog.at_level(logging.WARNING):
        (found,) = whole_parts(FS, folder)
    assert found.path == whole.path
    assert found.states.equals(whole.states.combine_chunks())
    assert [path.name for path in Path(folder).iterdir()] == ["part-0.parquet"]
    assert "part-1.parquet is not a whole part and is deleted" in caplog.text
