"""What the stage `extract` looks at before any work: its settings, weights and files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rayrec.config import AudioFeatures, Config, ConfigError, CoverNetwork
from rayrec.stages import extract
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.features.clips import write_clip

STAGE = extract.STAGE
CatalogOf = Callable[..., tuple[Workspace, Config]]


def test_no_media_needs_no_ray(catalog_of: CatalogOf, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    monkeypatch.setattr(ray.data, "from_arrow", lambda *_: pytest.fail("Ray Data was started"))
    workspace, config = catalog_of({"a": None, "b": None})
    manifest, _ = run_stage(workspace, STAGE, config)
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (0, 0, 0)
    assert workspace.read("features").num_rows == 0


def test_unusable_settings_are_found_before_any_work(tmp_path: Path, catalog_of: CatalogOf) -> None:
    workspace, config = catalog_of({"a": str(write_clip(tmp_path / "a.mp4"))})
    broken = {"image": {"weights": str(tmp_path / "nowhere.pt")}, "motion": {"model": "r3d_81"}, "audio": {"sample_rate": 100}}
    for name, change in broken.items():
        section = getattr(config.features, name).model_copy(update=change)
        changed = config.model_copy(update={"features": config.features.model_copy(update={name: section})})
        with pytest.raises(ConfigError, match=f"features.{name}"):
            run_stage(workspace, STAGE, changed)


def test_a_changed_file_is_noticed(tmp_path: Path, catalog_of: CatalogOf) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    workspace, config = catalog_of(
        {"a": str(clip), "same": clip.as_uri(), "gone": str(tmp_path / "b.mp4"), "odd": "nonsense://x", "none": None}
    )
    before = extract.sources(workspace, config)
    assert extract.sources(workspace, config) == before
    assert [uri for uri, _ in before] == [str(clip), clip.as_uri()]
    write_clip(clip, frames=12)
    assert extract.sources(workspace, config) != before


def test_only_what_changes_features_counts_as_a_setting(tmp_path: Path, catalog_of: CatalogOf) -> None:
    _, config = catalog_of({"a": None})
    faster = config.model_copy(
        update={"features": config.features.model_copy(update={"decoders": 9, "models": 3, "batch_videos": 64})}
    )
    assert extract.settings(config) == extract.settings(faster)
    # The cover network reads covers as they are kept.
    topics = config.topics.model_copy(update={"cover_network": CoverNetwork(size=299)})
    assert extract.settings(config) != extract.settings(config.model_copy(update={"topics": topics}))
    without = config.model_copy(update={"features": config.features.model_copy(update={"motion": None})})
    assert extract.settings(config) != extract.settings(without)
    # A weights file is what is in it.
    path = tmp_path / "weights.pt"
    image = config.features.image.model_copy(update={"weights": str(path)})
    for section in ({"image": image}, {"audio": AudioFeatures(model="yamnet", weights=str(path))}):
        weighted = config.model_copy(update={"features": config.features.model_copy(update=section)})
        path.unlink(missing_ok=True)
        absent = extract.settings(weighted)
        path.write_bytes(b"some")
        assert absent != extract.settings(weighted) != extract.settings(config)


def test_weights_that_are_not_there_are_refused_before_any_work(tmp_path: Path, catalog_of: CatalogOf) -> None:
    _, config = catalog_of({"a": None})
    audio = AudioFeatures(model="yamnet", weights=str(tmp_path / "yamnet.safetensors"))
    with pytest.raises(ConfigError, match=r"features\.audio\.weights: there is no file .*yamnet\.safetensors"):
        extract.check(config.model_copy(update={"features": config.features.model_copy(update={"audio": audio})}))
