"""Tables made in blocks are those that a loop over all rows makes, whatever the format and however small the blocks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest

from rayrec.datasets import delimited, making
from rayrec.datasets.runs import Record, Work
from rayrec.datasets.source import Limits
from rayrec.stages.execution import in_this_process
from rayrec.workspace.versions import Workspace
from tests.fixtures.logs import TINY, RandomLog, ingested_in_blocks

FORMATS = [[".csv"], [".parquet"], [".jsonl"], [".csv.gz", ".jsonl.zst"], [".ndjson.bz2", ".parquet", ".csv.zst"]]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "LONGEST_ROW", 500)


def check(workspace: Workspace, log: RandomLog) -> None:
    wanted = log.expected()
    found = workspace.read("interactions")
    assert found.select(list(wanted[0])).to_pylist() == [row | {"clicked": bool(row["clicked"])} for row in wanted]
    for name, key, rows in (("catalog", "video_id", log.catalog), ("users", "user_id", log.users)):
        first = {row[key]: row for row in reversed(rows)}  # the first row with a key wins
        kept = [row for row in rows if first[row[key]] is row]
        made = workspace.read(name).select(list(rows[0])).to_pylist()
        assert sorted(made, key=str) == sorted(kept, key=str)
        assert len(rows) > making.PARTITION_ROWS or made == kept
    manifest, total = workspace.manifest("ingest"), sum(map(len, log.files))
    assert manifest is not None
    repeated = len(log.catalog) - manifest.tables["catalog"] + len(log.users) - manifest.tables["users"]
    assert manifest.rows_in == total + len(log.catalog)
    assert manifest.rejects == total - len(wanted) + repeated == workspace.rejects("ingest").num_rows
    assert not any("/runs" in path or path.endswith(".new") for path in manifest.files)


@pytest.mark.parametrize("endings", FORMATS, ids=" ".join)
@pytest.mark.parametrize("limits", [TINY, Limits()], ids=["tiny", "usual"])
def test_the_tables_are_those_of_a_loop_over_all_rows(tmp_path: Path, endings: list[str], limits: Limits) -> None:
    log = RandomLog.make(seed=len(endings))
    workspace = ingested_in_blocks(log.write(tmp_path, endings), tmp_path / "space", limits=limits)
    check(workspace, log)
    assert (len(workspace.parts("interactions")) > 3) == (limits is TINY)


def test_keys_in_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "PARTITION_ROWS", 20)
    log = RandomLog.make(seed=7)
    workspace = ingested_in_blocks(log.write(tmp_path, [".parquet"]), tmp_path / "space")
    check(workspace, log)
    assert len(workspace.parts("catalog")) > 1


def test_a_moment_with_more_rows_than_a_part(tmp_path: Path) -> None:
    log = RandomLog.make(seed=8)
    for row in (row for file in log.files for row in file):
        row |= {"shown_at": 1_700_000_000_000 + row["place"] // 250, "request_id": None}
    workspace = ingested_in_blocks(log.write(tmp_path, [".csv"]), tmp_path / "space")
    check(workspace, log)
    assert len(workspace.parts("interactions")) > 3


def test_a_file_that_is_damaged_far_behind_its_first_blocks(tmp_path: Path) -> None:
    log = RandomLog.make(seed=9, files=1)
    dataset = log.write(tmp_path, [".csv"])
    with (tmp_path / "log/000.csv").open("a") as file:
        file.write('u1,"v1,never closed\nu1\n')
    workspace = ingested_in_blocks(dataset, tmp_path / "space")
    assert workspace.read("interactions")["place"].to_pylist() == [row["place"] for row in log.expected()]
    late = [row["reason"] for row in workspace.rejects("ingest").to_pylist() if row["row"] > 301]
    assert late == ["opens a quote that is not closed: 'u1,\"v1,never closed'", "has 1 cells, the table 8 columns: 'u1'"]


def test_a_killed_run_goes_on_from_what_is_complete(tmp_path: Path) -> None:
    log = RandomLog.make(seed=10, files=30, rows=600)
    dataset = log.write(tmp_path, [".parquet"])
    done: list[str] = []

    def counted(work: Sequence[Work]) -> Iterator[tuple[int, Record]]:
        for number, record in in_this_process(work):
            done.append(work[number].path)
            yield number, record

    def killed_after(pieces: int) -> making.Executor:
        def some(work: Sequence[Work]) -> Iterator[tuple[int, Record]]:
            yield from islice(counted(work), max(0, pieces - len(done)))
            if len(done) >= pieces:
                raise KeyboardInterrupt

        return some

    for pieces in (2, 5, 7, 8, 10):
        with pytest.raises(KeyboardInterrupt):
            ingested_in_blocks(dataset, tmp_path / "space", killed_after(pieces))
    check(ingested_in_blocks(dataset, tmp_path / "space", counted), log)
    assert len(done) > 12
    assert len(done) == len(set(done))
