"""A new video is described as the stages describe the videos of the catalog."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from rayrec.config import Config
from rayrec.serving.additions import RejectedError
from rayrec.serving.bundle import Bundle, BundleError, locate, model_of
from rayrec.serving.placing import Placer
from rayrec.stages.pipeline import load_stage
from rayrec.tables import MODALITIES
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.features.clips import cut, write_clip
from tests.serving.media_world import CLIPS
from tests.serving.small_world import video


def placer_of(config: Config) -> Placer:
    workspace = Workspace(config.workspace)
    return Placer.load(workspace.fs, locate(workspace, None)[1])


def test_a_video_of_the_catalog_gets_what_the_stages_gave_it(media_world: Config) -> None:
    workspace, placer = Workspace(media_world.workspace), placer_of(media_world)
    vectors, embeddings, topics = (workspace.read(name) for name in ("vectors", "embeddings", "topics"))
    catalog, features = workspace.read("catalog"), workspace.read("features")
    for number in (0, 5, CLIPS - 1):

        def row(table: object, number: int = number) -> dict:
            return table.filter(pc.equal(table["video_id"], video(number))).to_pylist()[0]

        facts = row(catalog)
        found, jpeg, fault = placer.describe(placer.decode(facts, timeout_s=60), facts, with_features=True)
        for name in found.features:
            np.testing.assert_allclose(found.features[name], row(features)[name], rtol=1e-4, atol=1e-3)
        known = {name for name in MODALITIES if row(vectors)[name] is not None}
        assert set(found.vectors) == set(found.features) == known == {"image", "cover", "audio", "maps"}
        for name in known:
            np.testing.assert_allclose(found.vectors[name], row(vectors)[name], atol=1e-4)
        np.testing.assert_allclose(found.vector, row(embeddings)["vector"], atol=1e-4)
        assert found.topics == row(topics)["topics"]
        np.testing.assert_allclose(found.similarity, row(topics)["similarity"], atol=1e-4)
        assert (jpeg, fault) == (row(features)["cover_jpeg"], None)
        assert found.facts["duration_s"] == pytest.approx(2.0, abs=0.1)
    placer.close()


def test_a_video_may_lack_its_sound(media_world: Config, tmp_path: Path) -> None:
    placer, path = placer_of(media_world), write_clip(tmp_path / "silent.mp4", frames=24)
    facts = {"video_id": "x", "uri": str(path)}
    found, jpeg, _ = placer.describe(placer.decode(facts, 60), facts)
    assert set(found.vectors) == {"image", "cover", "maps"}
    assert jpeg is not None
    placer.close()


def test_what_a_video_says_decides_also_without_tags_and_title(media_world: Config, tmp_path: Path) -> None:
    placer = placer_of(media_world)
    facts = {"video_id": "x", "uri": f"{media_world.workspace}/media/3.mp4"}
    found, _, _ = placer.describe(placer.decode(facts, 60), facts)
    assert found.topics
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)
    placer.warm_up(60)
    placer.close()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("absent", "there is no such file"), ("empty", "the file is empty"), ("text", "not a video or sound file"), ("cut", "moov")],
)
def test_a_bad_file_is_rejected_with_the_reason(media_world: Config, tmp_path: Path, kind: str, reason: str) -> None:
    placer, path = placer_of(media_world), tmp_path / "bad.mp4"
    if kind == "cut":
        cut(Path(media_world.workspace) / "media" / "1.mp4", path, 0.3)
    elif kind != "absent":
        path.write_bytes(b"" if kind == "empty" else b"no film" * 100)
    facts = {"video_id": "x", "uri": str(path)}
    with pytest.raises(RejectedError, match=reason):
        placer.describe(placer.decode(facts, 60), facts)
    placer.close()


def test_bundles_of_the_same_networks_and_topics_have_the_same_model(media_world: Config, published: Config) -> None:
    workspace = Workspace(media_world.workspace)
    version, folder = locate(workspace, None)
    assert len(model_of(workspace.fs, folder)) == 16
    manifest, _ = run_stage(workspace, load_stage("publish"), media_world, force=True)
    again = locate(workspace, manifest.version)[1]
    assert model_of(workspace.fs, again) == model_of(workspace.fs, folder) == Bundle.load(workspace.fs, folder, version).model
    files = {path.name for path in Path(folder, "placing").rglob("*") if path.is_file()}
    assert {path.rpartition(".")[2] for path in files} == {"json", "safetensors", "arrow"}
    workspace.switch("publish", version)
    other = Workspace(published.workspace)
    folder = locate(other, None)[1]
    assert model_of(other.fs, folder) == ""
    with pytest.raises(BundleError, match="the bundle can't describe new videos; run `rayrec extract CONFIG`"):
        Placer.load(other.fs, folder)


def test_a_file_that_was_changed_is_refused(media_world: Config, tmp_path: Path) -> None:
    workspace = Workspace(media_world.workspace)
    path = Path(locate(workspace, None)[1], "placing", "placing.json")
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    try:
        with pytest.raises(BundleError, match=r"placing/placing\.json is not the file that was published"):
            placer_of(media_world)
    finally:
        path.write_bytes(before)
