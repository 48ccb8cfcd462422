"""Covers beside the bundles: each is found, those of unchanged part files are not copied again, and damage is never sent."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.covers import CoverError
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.parts import write_part
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import KEPT_UNFINISHED, KEPT_VERSIONS, Workspace
from tests.serving.small_world import build_workspace, video


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return build_workspace(tmp_path / "space")


def jpeg(number: int, text: str = "cover") -> bytes:
    return b"\xff\xd8\xff" + f"{text} {number}".encode() * (number + 1)


def extract(workspace: Workspace, config: Config, parts: list[dict[int, bytes | None]]) -> None:
    """Write `features` as these part files, of which each has the covers of some videos."""

    def work(run: StageRun) -> None:
        for number, covers in enumerate(parts):
            columns = {
                "video_id": [video(n) for n in covers],
                "status": ["ok"] * len(covers),
                "cover_jpeg": pa.array(covers.values(), pa.large_binary()),
            }
            write_part(run.fs, f"{run.folder}/features", "features", number, pa.table(columns))
        run.record_parts("features", sum(map(len, parts)))
        run.count(0, 0)

    run_stage(workspace, Stage("extract", work, writes=("features",)), config, force=True)


def publish(workspace: Workspace, config: Config, force: bool = False) -> Bundle:
    run_stage(workspace, load_stage("publish"), config, force)
    version, folder = locate(workspace, None)
    return Bundle.load(workspace.fs, folder, version)


def files(workspace: Workspace) -> dict[str, int]:
    """The files of covers, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(workspace.root, "covers").iterdir()}


def covers(bundle: Bundle) -> dict[int, bytes]:
    found = {n: bundle.cover(bundle.item_of[video(n)]) for n in range(40)}
    return {n: cover for n, cover in found.items() if cover is not None}


def test_only_the_covers_of_new_part_files_are_copied(config: Config) -> None:
    workspace = Workspace(config.workspace)
    first, second = {n: jpeg(n) for n in range(20)} | {3: None}, {n: jpeg(n) for n in range(20, 30)}
    extract(workspace, config, [first, second])
    old, before = publish(workspace, config), files(workspace)
    third = {n: jpeg(n, "new") for n in range(20, 30)} | {35: jpeg(35), 1000: jpeg(1000)}  # v1000 is not in the catalog
    extract(workspace, config, [first, third, {36: None}])
    new, after = publish(workspace, config), files(workspace)
    assert covers(old) == {n: jpeg(n) for n in range(30) if n != 3}
    assert covers(new) == {n: jpeg(n, "new" if n >= 20 else "cover") for n in range(30) if n != 3} | {35: jpeg(35)}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    facts = {row["video_id"]: row["has_cover"] for row in new.facts_of(np.arange(1, 41))}
    assert [facts[video(n)] for n in (0, 3, 35, 36)] == [True, False, True, False]


def test_damage_is_an_error_until_the_covers_are_written_again(config: Config) -> None:
    workspace = Workspace(config.workspace)
    extract(workspace, config, [{n: jpeg(n) for n in range(10)}, {n: jpeg(n) for n in range(10, 20)}])
    bundle = publish(workspace, config)
    places = {n: path for n in (5, 15) for path in Path(workspace.root, "covers").iterdir() if jpeg(n) in path.read_bytes()}
    data = bytearray(places[15].read_bytes())
    data[data.index(jpeg(15)) + 4] ^= 1
    places[15].write_bytes(data)
    with pytest.raises(CoverError, match=r"checksum differs\); run `rayrec publish CONFIG --force`"):
        bundle.cover(bundle.item_of["v15"])
    assert bundle.cover(bundle.item_of["v16"]) == jpeg(16)
    places[5].unlink()
    with pytest.raises(CoverError, match=r"this file of covers is missing; run `rayrec publish CONFIG --force`"):
        bundle.cover(bundle.item_of["v5"])
    publish(workspace, config, force=True)
    assert covers(bundle) == {n: jpeg(n) for n in range(20)}


def test_a_damaged_part_file_is_no_source_of_covers(config: Config) -> None:
    workspace = Workspace(config.workspace)
    extract(workspace, config, [{0: jpeg(0)}])
    (part,) = workspace.part_digests("features")
    Path(part).write_bytes(Path(part).read_bytes().replace(jpeg(0), jpeg(0)[::-1]) + b"\0")
    with pytest.raises(CoverError, match=r"part-000000\.parquet is damaged .*`rayrec extract CONFIG --force`"):
        publish(workspace, config)


def test_files_that_no_version_names_are_deleted_when_they_are_old(config: Config) -> None:
    workspace = Workspace(config.workspace)
    extract(workspace, config, [{0: jpeg(0)}])
    publish(workspace, config)
    (first,) = (path for path in Path(workspace.root, "covers").iterdir() if path.read_bytes() == jpeg(0))

    def publish_another(number: int) -> bool:
        """Whether the first file is still there afterwards."""
        extract(workspace, config, [{0: jpeg(number)}])
        publish(workspace, config)
        return first.exists()

    assert [publish_another(number) for number in range(1, KEPT_VERSIONS + 2)] == [True] * (KEPT_VERSIONS + 1)
    long_ago = first.stat().st_mtime - KEPT_UNFINISHED.total_seconds() - 60
    for path in first.parent.iterdir():
        os.utime(path, (long_ago, long_ago))
    named = set(files(workspace))
    assert not publish_another(10)
    assert len(named & files(workspace).keys()) >= KEPT_VERSIONS  # those of the versions that can be served again
