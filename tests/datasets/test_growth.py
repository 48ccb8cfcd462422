"""A log that grows by files ends as the log that is read at once, and files that were read are not read again."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rayrec.datasets.runs import Record, Work
from rayrec.stages.execution import in_this_process
from rayrec.workspace.versions import Manifest, Workspace, WorkspaceError
from tests.fixtures.logs import RandomLog, ingested_in_blocks

ENDINGS = [".csv", ".jsonl", ".csv.gz"]
DAY_MS = 86_400_000


def log(days: bool = True, unknown_videos: bool = True) -> RandomLog:
    """Six files; with `days`, each is of a later day than the one before."""
    made = RandomLog.make(3, rows=600, files=6)
    known = {row["video_id"] for row in made.catalog}
    for number, rows in enumerate(made.files):
        for row in rows:
            row["shown_at"] += number * DAY_MS if days else 0
        rows[:] = [row for row in rows if unknown_videos or row["video_id"] in known]
    return made


def first(log: RandomLog, count: int) -> RandomLog:
    """The same with its first files alone."""
    return replace(log, files=log.files[:count])


def ingested(log: RandomLog, folder: Path, unreadable: int = 0) -> Workspace:
    """The workspace after another run. Of the log, the first files are `unreadable`, but look as if they had not changed."""
    dataset = log.write(folder, ENDINGS)
    files = sorted((folder / "log").iterdir())
    for path in files[:unreadable]:
        path.write_bytes(b"\0" * path.stat().st_size)
    for path in [*files, *folder.glob("*.csv")]:
        os.utime(path, (1, 1))
    return ingested_in_blocks(dataset, folder / "space")


def check(workspace: Workspace, log: RandomLog) -> Manifest:
    """The version is as if the log had been read at once."""
    wanted, manifest = log.expected(), workspace.manifest("ingest")
    assert manifest is not None
    found = workspace.read("interactions").select(list(wanted[0])).to_pylist()
    assert found == [row | {"clicked": bool(row["clicked"])} for row in wanted]
    total, (catalog, users) = sum(map(len, log.files)), (manifest.tables[name] for name in ("catalog", "users"))
    assert (manifest.rows_in, manifest.rows_out) == (total + len(log.catalog), len(wanted) + catalog)
    assert manifest.rejects == total - len(wanted) + len(log.catalog) - catalog + len(log.users) - users
    assert workspace.rejects("ingest").num_rows == manifest.rejects
    assert workspace.damage(manifest) is None
    return manifest


@pytest.mark.parametrize("days", [True, False], ids=["day by day", "all days mixed"])
def test_only_new_files_are_read(tmp_path: Path, days: bool) -> None:
    whole = log(days)
    check(ingested(first(whole, 2), tmp_path), first(whole, 2))
    check(ingested(first(whole, 3), tmp_path, unreadable=2), first(whole, 3))
    manifest = check(ingested(whole, tmp_path, unreadable=3), whole)
    assert bool(manifest.shared) == days
    parts = [path for path in manifest.files if path.startswith("interactions/")]
    assert set(manifest.shared) < set(parts)


def test_a_new_catalog_that_decides_as_the_one_before(tmp_path: Path) -> None:
    whole = log(unknown_videos=False)
    ingested(first(whole, 5), tmp_path)
    whole.catalog.append({"video_id": "new", "title": "t", "length": 1})
    whole.files[5][0]["video_id"] = "new"
    manifest = check(ingested(whole, tmp_path, unreadable=5), whole)
    assert manifest.shared


@pytest.mark.parametrize("change", ["more videos", "fewer videos", "a file", "no file", "another type"])
def test_the_whole_log_is_read_when_what_was_read_may_differ(tmp_path: Path, change: str) -> None:
    whole = log()
    ingested(whole, tmp_path)
    if change == "more videos":
        whole.catalog += [{"video_id": f"v{number}", "title": "t", "length": 1} for number in range(30)]
    elif change == "fewer videos":
        gone = whole.catalog[0]["video_id"]
        whole.catalog = [row for row in whole.catalog if row["video_id"] != gone]
    elif change == "a file":
        whole.files[1].append(whole.files[2][0])
    elif change == "no file":
        (tmp_path / "log/005.csv.gz").unlink()
        whole = first(whole, 5)
    else:
        whole.files.append([row | {"number": "many"} for row in whole.files[5]])
    rows = whole.expected()
    workspace = ingested(whole, tmp_path)
    if change == "another type":
        assert workspace.read("interactions")["number"].to_pylist() == [str(row["number"]) for row in rows]
        return
    assert check(workspace, whole).shared == {}


def test_what_a_killed_run_took_over_is_not_there_twice(tmp_path: Path) -> None:
    whole = log()
    for count in range(1, 6):
        before = ingested(first(whole, count), tmp_path)
    dataset = whole.write(tmp_path, ENDINGS)
    for path in [*(tmp_path / "log").iterdir(), *tmp_path.glob("*.csv")]:
        os.utime(path, (1, 1))

    def killed(work: Sequence[Work]) -> Iterator[tuple[int, Record]]:
        yield from in_this_process(work)
        if any("interactions-written" in each.path for each in work):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingested_in_blocks(dataset, tmp_path / "space", killed)
    Path(before.parts("interactions")[0]).unlink()  # so that nothing can be taken over any more
    check(ingested(whole, tmp_path), whole)


def test_a_damaged_part_file_is_named(tmp_path: Path) -> None:
    whole = log(days=False)
    workspace = ingested(first(whole, 5), tmp_path)
    part = Path(workspace.parts("interactions")[0])
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(WorkspaceError, match=r"part-000000.parquet is damaged .* `rayrec ingest CONFIG --force`"):
        ingested(whole, tmp_path)
