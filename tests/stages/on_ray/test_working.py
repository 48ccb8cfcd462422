"""Work on Ray's workers is the work of a loop."""

import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from rayrec.stages.on_ray.working import work_on
from rayrec.tables import TableError
from tests.fixtures.logs import RandomLog, ingested_in_blocks


def test_tables_made_by_workers_are_those_of_a_loop(ray_cluster: str, tmp_path: Path) -> None:
    dataset = RandomLog.make(seed=20).write(tmp_path, [".csv", ".parquet"])
    here = ingested_in_blocks(dataset, tmp_path / "here")
    there = ingested_in_blocks(dataset, tmp_path / "there", work_on)
    for name in ("catalog", "interactions", "users"):
        assert there.read(name).equals(here.read(name))
        assert len(there.parts(name)) == len(here.parts(name))
    assert there.rejects("ingest").equals(here.rejects("ingest"))


def fail() -> pa.Table:
    raise TableError("log.csv: the file can't be read")


def test_an_error_of_ours_comes_as_it_is(ray_cluster: str) -> None:
    with pytest.raises(TableError, match=r"^log.csv: the file can't be read$"):
        list(work_on([fail, os.getcwd]))


def test_relative_paths_start_from_where_the_command_was_called(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = dict(work_on([partial(os.path.abspath, name) for name in "abcdefghijkl"]))
    assert found == {number: str(tmp_path / name) for number, name in enumerate("abcdefghijkl")}
