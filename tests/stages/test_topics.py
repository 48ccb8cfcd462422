"""The stage `topics` on Ray: what it writes, what a grown catalog gets, ids across retrainings, and a kill in the middle."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import normalized_mutual_info_score

from rayrec.config import Config
from rayrec.stages import topics
from rayrec.stages.topics import ASSIGN as ASSIGN_TOPICS
from rayrec.stages.topics import STAGE as TOPICS
from rayrec.workspace.parts import read_checked
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.fixtures.topics import SMALL, LittleWorld, little_world

ROOT = Path(__file__).parents[2]
# Joins the cluster of the test run, trains with a checkpoint after every epoch, and is killed.
CHILD = """
import json, sys, ray
from rayrec.config import Config
from rayrec.stages.topics import STAGE as TOPICS
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
ray.init(sys.argv[1], log_to_driver=False)
config = Config.model_validate_json(sys.argv[2])
run_stage(Workspace(config.workspace), TOPICS, config)
"""


def put(config: Config, catalog: pa.Table, vectors: pa.Table) -> Workspace:
    """A workspace whose first stages gave these tables."""
    workspace = Workspace(config.workspace)
    for name, table, value in (("ingest", "catalog", catalog), ("reduce", "vectors", vectors)):

        def work(run: StageRun, table: str = table, value: pa.Table = value) -> None:
            run.write(table, value)

        run_stage(workspace, Stage(name, work, writes=(table,)), config, force=True)
    return workspace


@pytest.fixture
def config(tmp_path: Path, ray_cluster: str) -> Config:
    return Config(workspace=str(tmp_path / "workspace"), topics=SMALL)


def first_topics(workspace: Workspace) -> dict[str, int]:
    table = workspace.read("topics")
    return {video: topics[0] for video, topics in zip(table["video_id"].to_pylist(), table["topics"].to_pylist(), strict=True)}


def test_new_videos_get_topics_without_training_and_a_retrained_model_keeps_the_ids(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    world, later = little_world(), little_world(40, seed=1)
    workspace = put(config, world.catalog, world.vectors)
    run_stage(workspace, TOPICS, config)
    before, centres = first_topics(workspace), workspace.read("topic_centres")
    assert normalized_mutual_info_score(list(before.values()), world.kinds) > 0.9
    assert centres["videos"].to_pylist() == [
        sum(topic in found for found in workspace.read("topics")["topics"].to_pylist()) for topic in range(4)
    ]

    put(config, pa.concat_tables([world.catalog, later.catalog]), pa.concat_tables([world.vectors, later.vectors]))
    manifest, done = run_stage(workspace, ASSIGN_TOPICS, config)
    after = first_topics(workspace)
    assert done
    assert manifest.rows_out == 200
    assert {video: after[video] for video in before} == before
    assert workspace.read("topic_centres")["centre"].equals(centres["centre"])
    new = [after[video] for video in later.catalog["video_id"].to_pylist()]
    assert normalized_mutual_info_score(new, later.kinds) > 0.8
    assert not run_stage(workspace, TOPICS, config)[1]  # what was assigned stands until something changes

    with caplog.at_level(logging.INFO, "rayrec"):
        run_stage(workspace, TOPICS, config.model_copy(update={"seed": 8}))
    assert "4 of 4 topics keep their ids" in caplog.text
    assert "titles: bag, learned from the catalog alone" in caplog.text
    again = first_topics(workspace)
    assert np.mean([again[video] == topic for video, topic in after.items()]) > 0.9


def test_assigning_needs_a_model(config: Config) -> None:
    world = little_world(20)
    workspace = put(config, world.catalog, world.vectors)
    with pytest.raises(WorkspaceError, match="has not run yet; run `rayrec topics CONFIG` first"):
        run_stage(workspace, ASSIGN_TOPICS, config)


def test_blocks_on_ray_and_training_a_pretrained_transformer_with_two_workers(
    config: Config, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayrec.stages.on_ray.topic_blocks.BLOCK_VIDEOS", 20)
    world = little_world()
    # One block has the videos of the file of vectors, of which one is not in the catalog; two have the 30 videos without a vector.
    catalog, vectors = world.catalog.slice(1), world.vectors.slice(0, 130)
    workspace = put(config, catalog, vectors)
    settings = config.topics.model_copy(update={"clustering": "ray", "workers": 2, "epochs": 8, "title_encoder": str(tiny_bert)})
    run_stage(workspace, TOPICS, config.model_copy(update={"topics": settings}))
    assert len(workspace.parts("topics")) == len(workspace.parts("embeddings")) == 3
    assert normalized_mutual_info_score(*kinds_and_topics(workspace, world)) > 0.7

    # In one process the same model says the same of each video.
    tables = {name: workspace.read(name).sort_by("video_id") for name in ("topics", "embeddings")}
    counted = workspace.read("topic_centres")
    here = settings.model_copy(update={"clustering": "local"})
    run_stage(workspace, ASSIGN_TOPICS, config.model_copy(update={"topics": here}), force=True)
    again = {name: workspace.read(name).sort_by("video_id") for name in tables}
    assert again["topics"].select(["video_id", "topics"]).equals(tables["topics"].select(["video_id", "topics"]))
    joint, before = (np.stack(each["embeddings"]["vector"].to_numpy()) for each in (again, tables))
    np.testing.assert_allclose(joint, before, atol=1e-5)
    assert workspace.read("topic_centres").select(["videos", "tags"]).equals(counted.select(["videos", "tags"]))


def kinds_and_topics(workspace: Workspace, world: LittleWorld) -> tuple[list[int], list[int]]:
    found, ids = first_topics(workspace), world.catalog["video_id"].to_pylist()
    kinds = dict(zip(ids, world.kinds.tolist(), strict=True))
    return [kinds[video] for video in found], list(found.values())


def test_a_damaged_part_is_noticed_by_the_worker_that_reads_it(config: Config) -> None:
    world = little_world(20)
    workspace = put(config, world.catalog, world.vectors)
    (path,) = workspace.parts("vectors")
    Path(path).write_bytes(bytes(Path(path).stat().st_size))
    run = StageRun(workspace, TOPICS, config, "0", {}, None)
    ((_, digest),) = run.part_digests("vectors").items()
    with pytest.raises(WorkspaceError, match=r"part-0.parquet is damaged .*make it again: `rayrec reduce CONFIG --force`"):
        read_checked(workspace.fs, path, digest, "vectors", ["video_id"])


def test_a_killed_training_goes_on_where_it_stopped(config: Config, ray_cluster: str, caplog: pytest.LogCaptureFixture) -> None:
    config = config.model_copy(update={"topics": config.topics.model_copy(update={"epochs": 400})})
    world = little_world()
    workspace = put(config, world.catalog, world.vectors)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, ray_cluster, config.model_dump_json()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        # An epoch is reported after its checkpoint.
        while not any(json.loads(path.read_text())["epochs"] for path in Path(config.workspace).glob("topics/*/progress.json")):
            assert child.poll() is None, "the run ended before its first epoch could be seen"
            assert time.monotonic() < deadline, "no epoch came"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert workspace.manifest("topics") is None  # nobody sees the unfinished version
    with caplog.at_level(logging.INFO, "rayrec"):
        run_stage(workspace, TOPICS, config)
    epochs = [int(message.split()[2]) for message in caplog.messages if message.startswith("topics: epoch")]
    assert 1 < epochs[0] < 400
    assert epochs == list(range(epochs[0], 401))


def test_a_catalog_that_says_nothing_has_no_topics(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    catalog = little_world(5).catalog.select(["video_id"])
    workspace = put(config, catalog, pa.table({"video_id": catalog["video_id"]}))
    with caplog.at_level(logging.WARNING):
        manifest, _ = run_stage(workspace, TOPICS, config)
    assert manifest.tables == {"topics": 0, "embeddings": 0, "topic_centres": 0, "tag_vectors": 0}
    assert manifest.settings["networks"].startswith("pictures: vectors of ")
    assert "there are no topics" in caplog.text


def test_how_many_work_changes_nothing_of_the_settings(config: Config) -> None:
    update = {"workers": 4, "clustering": "ray", "restarts": 7}
    more = config.model_copy(update={"topics": config.topics.model_copy(update=update)})
    assert json.dumps(topics.settings(config)) == json.dumps(topics.settings(more))
    assert topics._processes(more).restarts == 7
    fewer = config.model_copy(update={"topics": config.topics.model_copy(update={"clusters": 3})})
    assert topics.settings(config) != topics.settings(fewer)
