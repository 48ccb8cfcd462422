"""A log without times gets some that give each user's rows a random order, and every part its share of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import FilesData, Split
from rayrec.data.pieces import LogPieces
from rayrec.datasets.source import Limits
from rayrec.datasets.timeless import drawn_times
from rayrec.tables import DRAWN_AT, PART_MS, TableError
from rayrec.workspace.versions import Workspace
from tests.fixtures.logs import TINY, ingested_in_blocks, write_rows

Row = tuple[str, str]
SPLIT = Split(validation=0.2, test=0.1)


def times_of(rows: list[Row], parts: list[int] | None = None, seed: int = 7) -> list[int]:
    users, videos = (pa.chunked_array([pa.array(column, pa.large_string())]) for column in zip(*rows, strict=True))
    return drawn_times(users, videos, np.array(parts or [0] * len(rows), np.int8), seed).tolist()


def test_the_rows_of_each_user_are_spread_evenly_over_each_part() -> None:
    counts = {"a": 1, "b": 2, "c": 7, "d": 40}
    rows = [(user, f"v{number}") for user, count in counts.items() for number in range(count)]
    parts = [number % 3 for number in range(len(rows))]
    times = times_of(rows, parts)
    for user in counts:
        for part in range(3):
            places = [place for place, row in enumerate(rows) if (row[0], parts[place]) == (user, part)]
            mine = [times[place] - DRAWN_AT - part * PART_MS for place in places]
            for rank, time in enumerate(sorted(mine)):
                begin, end = rank * PART_MS / len(mine), (rank + 1) * PART_MS / len(mine)
                assert time == 0 if rank == 0 else begin <= time <= end
                assert time < PART_MS


def test_the_order_is_random_and_that_of_the_seed() -> None:
    rows = [("ann", f"v{number}") for number in range(200)]
    times = times_of(rows)
    assert abs(np.corrcoef(np.arange(200), times)[0, 1]) < 0.2
    assert times_of(rows) == times
    assert times_of(rows, seed=8) != times
    order = np.random.default_rng(0).permutation(200)
    assert [times_of([rows[place] for place in order])[where] for where in np.argsort(order)] == times


def test_users_of_few_rows_get_their_share_together() -> None:
    rows = [(f"u{number // 4}", f"v{number}") for number in range(8000)]
    share = np.mean(np.array(times_of(rows)) >= DRAWN_AT + 0.9 * PART_MS)
    assert share == pytest.approx(0.1, abs=0.01)


def logs(folder: Path, files: int) -> FilesData:
    """The same 2,000 rows of 40 users in some files, without times and labels."""
    rng = np.random.default_rng(1)
    users, videos = (40 * rng.random(2000) ** 2).astype(int), rng.integers(0, 90, 2000)
    rows = [{"user_id": f"u{user}", "video_id": f"v{video}"} for user, video in zip(users, videos, strict=True)]
    (folder / "log").mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        write_rows(folder / f"log/{number}.csv", [rows[place] for place in part])
    write_rows(folder / "catalog.csv", [{"video_id": f"v{number}"} for number in range(90)])
    return FilesData(kind="files", catalog=str(folder / "catalog.csv"), interactions=str(folder / "log"))


@pytest.fixture
def whole(tmp_path: Path) -> Workspace:
    return ingested_in_blocks(logs(tmp_path / "whole", 1), tmp_path / "whole" / "space", limits=Limits())


def rows_of(workspace: Workspace) -> list[tuple[int, str, str]]:
    table = workspace.read("interactions")
    return sorted(zip(*(table[name].to_pylist() for name in ("shown_at", "user_id", "video_id")), strict=True))


def test_files_and_blocks_make_no_difference(whole: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.datasets.making.PARTITION_ROWS", 50)
    parts = ingested_in_blocks(logs(tmp_path / "parts", 7), tmp_path / "parts" / "space", limits=TINY)
    assert rows_of(parts) == rows_of(whole)


def test_each_user_is_split_by_the_shares_of_the_config(whole: Workspace) -> None:
    pieces = LogPieces.of(whole.fs, whole.part_digests("interactions"))
    split = pieces.split(SPLIT)
    assert split.by == "user"
    users = np.array(whole.read("interactions")["user_id"].to_pylist())
    for user in np.unique(users):
        count = (users == user).sum()
        for part, share in ((split.train, 0.7), (split.validation, 0.2), (split.test, 0.1)):
            assert abs((users[part] == user).sum() - share * count) <= 1
        assert (users[split.train] == user).any()
    assert pieces.validation_at(SPLIT) == split.validation_at == DRAWN_AT + 0.7 * PART_MS


def test_a_log_without_times_that_grows_is_read_anew(tmp_path: Path) -> None:
    dataset = logs(tmp_path / "grown", 3)
    last = tmp_path / "grown" / "log" / "2.csv"
    held = last.read_bytes()
    last.unlink()
    space = tmp_path / "grown" / "space"
    before = rows_of(ingested_in_blocks(dataset, space))
    last.write_bytes(held)
    whole = ingested_in_blocks(logs(tmp_path / "whole", 1), tmp_path / "whole" / "space")
    assert rows_of(ingested_in_blocks(dataset, space)) == rows_of(whole)
    assert len(before) < 2000


def test_times_in_some_files_alone_are_refused(tmp_path: Path) -> None:
    dataset = logs(tmp_path, 2)
    write_rows(tmp_path / "log" / "timed.csv", [{"user_id": "u1", "video_id": "v1", "shown_at": 1_700_000_000}])
    with pytest.raises(TableError, match=r"0\.csv: the rows have no times .* whereas those of .*timed\.csv have times"):
        ingested_in_blocks(dataset, tmp_path / "space")
