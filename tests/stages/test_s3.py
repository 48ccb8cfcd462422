"""Every stage on a workspace in S3 makes what it makes on a disk; media in S3 are read; workers train there too."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, WorldData, load
from rayrec.datasets.synthetic.media import write_clips
from rayrec.datasets.synthetic.simulation import MEDIA
from rayrec.datasets.synthetic.world import make
from rayrec.features.media.files import file_versions
from rayrec.ranking.scorer import Scorer
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.stages.pipeline import load_stage, run_stages, stages_for
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stores import join_uri
from rayrec.workspace.versions import Workspace
from tests.fixtures.s3 import S3
from tests.stages.test_pipeline import TINY

MORE = """
tuning: {space: {ranker.embedding_size: [4, 8]}, trials: 2, concurrent: 2, min_epochs: 1}
comparison: {arms: {small: {ranker.embedding_size: 2}}}
"""
# Workers draw their dropout each for themselves.
SETTINGS = ["training.epochs=1", "training.without_topics=false", "ranker.dropout=0", "ranker.id_dropout=0", "topics.epochs=2"]
SAME_COLUMNS = {"catalog": ["video_id", "title", "tags"], "features": ["video_id", "status", "image", "motion", "cover_jpeg"]}
TABLES = ("catalog", "interactions", "features", "vectors", "topics", "topic_centres", "embeddings", "predictions")


@pytest.fixture(scope="module")
def configs(s3: S3, ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Config]:
    """A config of a tiny data set on a disk, and one of the same in S3; all stages of the road have run on both."""
    folder, bucket = tmp_path_factory.mktemp("s3"), s3.bucket()
    write_data_set(folder / "data")
    pafs.copy_files(str(folder / "data"), bucket, destination_filesystem=open_filesystem(s3.uri(bucket))[0])
    (folder / "tiny.yaml").write_text(f"{TINY}{MORE}")
    local = load(folder / "tiny.yaml", [*SETTINGS, *places(str(folder / "data"), str(folder / "space"))])
    remote = load(folder / "tiny.yaml", [*SETTINGS, *places(s3.uri(bucket), s3.uri(f"{s3.bucket()}/work space"))])
    for config in (local, remote):
        run_stages(stages_for(config), config)
    return local, remote


def write_data_set(folder: Path) -> None:
    """The tables and the clips of a tiny world, which both configs read."""
    world = make(WorldData(kind="world", videos=24, users=40, topics=6, days=3, requests=300, picture=64, fps=8), seed=7)
    write_clips(world.clips, pafs.LocalFileSystem(), f"{folder}/{MEDIA}")
    for name in ("catalog", "interactions", "users"):
        pq.write_table(getattr(world, name), folder / f"{name}.parquet")


def places(data: str, workspace: str) -> list[str]:
    tables = [f"{name}: '{join_uri(data, f'{name}.parquet')}'" for name in ("catalog", "interactions", "users")]
    return [f"dataset={{kind: files, {', '.join(tables)}}}", f"workspace={workspace}"]


def read(config: Config, table: str) -> pa.Table:
    found = Workspace(config.workspace).read(table, SAME_COLUMNS.get(table))
    found = found.drop_columns([name for name in found.column_names if name == "at"])
    return found.sort_by("video_id") if table == "features" else found  # they are in the order in which they were done


def assert_same(one: pa.Table, other: pa.Table, what: str) -> None:
    """Numbers may differ by rounding, which depends on how the decoders' batches fall."""
    assert one.schema.names == other.schema.names
    for name in one.schema.names:
        left, right = one[name].combine_chunks(), other[name].combine_chunks()
        kind = left.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            left, right = pc.list_flatten(left), pc.list_flatten(right)
        if pa.types.is_floating(left.type):
            np.testing.assert_allclose(left.to_numpy(False), right.to_numpy(False), rtol=1e-3, atol=1e-4, err_msg=f"{what}.{name}")
        else:
            assert left.equals(right), f"{what}.{name}"


def test_every_stage_makes_in_s3_what_it_makes_on_a_disk(configs: tuple[Config, Config]) -> None:
    for table in TABLES:
        assert_same(*(read(config, table) for config in configs), what=table)
    reports = [
        Workspace(config.workspace).read_file(f"{Workspace(config.workspace).folder('evaluate')}/report.json") for config in configs
    ]
    clicks = [json.loads(report)["clicks"]["with topics"] for report in reports]
    assert clicks[0]["auc"] == pytest.approx(clicks[1]["auc"], abs=1e-3)


def test_a_second_run_does_nothing_and_leaves_no_unfinished_file(configs: tuple[Config, Config]) -> None:
    done = []
    run_stages(stages_for(configs[1]), configs[1], on_done=lambda manifest, worked: done.append(worked))
    assert not any(done)
    workspace = Workspace(configs[1].workspace)
    for stage in stages_for(configs[1]):
        assert [manifest.stage for manifest in workspace.versions(stage.name)] == [stage.name]
        manifest = workspace.manifest(stage.name)
        assert manifest is not None
        assert workspace.damage(manifest) is None
        assert not [name for name in manifest.files if name.endswith((".new", "unfinished", ".pt"))]


def test_media_in_s3_are_an_input_like_any_other(configs: tuple[Config, Config], s3: S3) -> None:
    remote = configs[1]
    uris = Workspace(remote.workspace).read("catalog")["uri"].to_pylist()
    assert all(uri.startswith("s3://") and uri.endswith(s3.options) for uri in uris)
    assert set(Workspace(remote.workspace).read("features")["status"].to_pylist()) == {"ok"}


def test_two_workers_train_in_s3_what_one_process_does_on_a_disk(configs: tuple[Config, Config]) -> None:
    weights = []
    for config, workers in zip(configs, (0, 2), strict=True):
        training = config.training.model_copy(update={"workers": workers})
        run_stages([load_stage("train")], config.model_copy(update={"training": training}), force=True)
        workspace = Workspace(config.workspace)
        scorer = Scorer.load(workspace.fs, f"{workspace.check('train')}/ranker")
        weights.append(scorer.model.state_dict())
    for name, values in weights[0].items():
        np.testing.assert_allclose(weights[1][name].numpy(), values.numpy(), atol=2e-3, err_msg=name)


def test_tune_and_compare_work_in_s3(configs: tuple[Config, Config]) -> None:
    remote = configs[1]
    workspace = Workspace(remote.workspace)
    run_stages([load_stage("tune"), load_stage("compare")], remote)
    trials = json.loads(workspace.read_file(f"{workspace.check('tune')}/trials.json"))
    assert [trial["status"] for trial in trials] == ["finished", "finished"]
    assert "results.json" in workspace.versions("compare")[0].files


def test_a_bundle_is_loaded_from_s3_and_versions_are_switched(configs: tuple[Config, Config], tmp_path: Path) -> None:
    remote = configs[1]
    workspace = Workspace(remote.workspace)
    first, folder = locate(workspace, None)
    bundle = Bundle.load(workspace.fs, folder, first, tmp_path)
    assert len(bundle.item_ids) == 25
    assert len(list(tmp_path.rglob("*.arrow"))) == 3
    covers = workspace.read("features", ["video_id", "cover_jpeg"]).to_pylist()
    assert all(bundle.cover(bundle.item_of[row["video_id"]]) == row["cover_jpeg"] for row in covers)
    assert len(load_scorer(workspace.fs, folder).item_ids) == 25
    run_stages([load_stage("publish")], remote, force=True)
    second, _ = locate(workspace, None)
    assert second != first
    workspace.switch("publish", first)
    assert locate(workspace, None) == (first, folder)
    assert locate(workspace, second)[0] == second


def test_the_synthetic_world_is_made_in_s3(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    config = load(tmp_path / "tiny.yaml", [f"workspace={s3.uri(s3.bucket() + '/w')}"])
    run_stages([load_stage("ingest")], config)
    uris = Workspace(config.workspace).read("catalog")["uri"].to_pylist()
    assert len(file_versions(uris)) == len(uris) == 24
