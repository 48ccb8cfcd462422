"""The whole stage on Ray: good, bad and missing media; going on after SIGKILL; redoing what has changed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, ConfigError, Features, TextFeatures
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from rayrec.stages import extract
from rayrec.workspace.stage import StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.features.clips import cut, tone, write_clip

# Ray Data warns of defaults of its own when its settings are first made.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

STAGE = extract.STAGE
CatalogOf = Callable[..., tuple[Workspace, Config]]

ROOT = Path(__file__).parents[2]
# What the killed process runs: the same stage on the same workspace, in small parts, joined to the tests' Ray.
CHILD = """
import json, sys
import ray
from rayrec.config import Config
from rayrec.workspace.versions import Workspace
from rayrec.stages import extract
from rayrec.workspace.stage import run_stage
extract.PART_VIDEOS = 4
config = Config.model_validate_json(sys.argv[2])
ray.init(address=sys.argv[1], log_to_driver=False)
run_stage(Workspace(config.workspace), extract.STAGE, config)
"""


def make_media(folder: Path) -> dict[str, str | None]:
    """The bad-media list of the issue, among good clips."""
    sound = tone(440, 2.0)
    clips = {f"good{number}": write_clip(folder / f"good{number}.mp4", sound=tone(300 * (number + 1), 2.0)) for number in range(3)}
    clips["silent"] = write_clip(folder / "silent.mp4")
    clips["blind"] = write_clip(folder / "blind.mp4", frames=0, sound=sound)
    clips["single"] = write_clip(folder / "single.mp4", frames=1)
    long = write_clip(folder / "long.mp4", frames=60, sound=tone(440, 5.0), index_first=True)
    clips["partial"] = cut(long, folder / "partial.mp4", 0.6)
    clips["no_index"] = cut(clips["good0"], folder / "no_index.mp4", 0.6)
    clips["empty"], clips["text"], clips["missing"] = (folder / f"{name}.mp4" for name in ("empty", "text", "missing"))
    clips["empty"].touch()
    clips["text"].write_text("this is no video\n" * 100)
    return {name: str(path) for name, path in clips.items()} | {"no_media": None}


def rows_of(paths: list[Path]) -> pa.Table:
    """What `decode_rows` takes."""
    nothing = pa.nulls(len(paths), pa.string())
    names, uris = [path.stem for path in paths], [str(path) for path in paths]
    return pa.table({"video_id": names, "uri": uris, "title": nothing, "file_version": nothing})


def test_good_rows_are_processed_and_bad_ones_rejected(tmp_path: Path, catalog_of: CatalogOf, ray_cluster: str) -> None:
    workspace, config = catalog_of(make_media(tmp_path))
    manifest, done = run_stage(workspace, STAGE, config)
    assert done
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (11, 7, 5)

    features = {row["video_id"]: row for row in workspace.read("features").to_pylist()}
    assert list(features) == ["good0", "good1", "good2", "silent", "blind", "single", "partial"]  # the catalog's order
    lengths = {
        name: {part: len(row[part]) if row[part] else None for part in ("image", "cover", "motion", "audio")}
        for name, row in features.items()
    }
    everything = {"image": 512, "cover": 512, "motion": 512, "audio": 34}
    assert lengths["good0"] == lengths["good1"] == lengths["good2"] == lengths["partial"] == everything
    assert lengths["silent"] == lengths["single"] == everything | {"audio": None}
    assert lengths["blind"] == {"image": None, "cover": None, "motion": None, "audio": 34}
    assert {name: row["status"] for name, row in features.items()} == dict.fromkeys(features, "ok") | {"partial": "partial"}
    assert features["partial"]["error"].startswith("truncated")
    assert features["good0"]["error"] is None
    assert features["good0"]["frames"] == 24
    assert features["good0"]["cover_jpeg"][:3] == b"\xff\xd8\xff"
    assert features["blind"]["frames"] is None
    assert features["silent"]["sample_rate"] is None

    rejects = {row["id"]: row for row in workspace.rejects("extract").to_pylist()}
    reasons = {
        "partial": "truncated: only",
        "no_index": "moov",
        "empty": "is empty",
        "text": "not a video",
        "missing": "no such file",
    }
    assert set(rejects) == set(reasons)
    for name, reason in reasons.items():
        assert reason in rejects[name]["reason"], name
        assert rejects[name]["source"] == str(tmp_path / f"{name}.mp4"), name
        assert rejects[name]["stage"] == "extract"
    assert rejects["no_index"]["row"] == 7  # in the catalog

    # The same functions, called for one video at a time without Ray, give the same vectors.
    networks = load_networks(config.features, config.seed)
    used = resolved(config.features, networks)
    for name in ("good1", "blind", "partial"):
        alone = network_rows(decode_rows(rows_of([tmp_path / f"{name}.mp4"]), used), used, networks).to_pylist()[0]
        for part in ("image", "cover", "motion", "audio"):
            assert features[name][part] == (alone[part] and pytest.approx(alone[part], abs=1e-3)), (name, part)

    assert not run_stage(workspace, STAGE, config)[1]  # nothing has changed: nothing is done


def test_killed_and_run_again(tmp_path: Path, catalog_of: CatalogOf, ray_cluster: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", sound=tone(440, 2.0))
    uris = {f"video{number:03d}": str(clip) for number in range(48)} | {"bad": str(tmp_path / "missing.mp4")}
    workspace, config = catalog_of(uris)
    # Few processes and no networks: each takes seconds to start.
    quick = config.features.model_copy(update={"image": None, "motion": None, "decoders": 1})
    config = config.model_copy(update={"features": quick})
    command = [sys.executable, "-c", CHILD, ray_cluster, config.model_dump_json()]
    child = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 240
        while not (parts := finished_parts(tmp_path)):
            assert child.poll() is None, "the run ended before its first part could be seen"
            assert time.monotonic() < deadline, "no part came"
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    parts = finished_parts(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in parts}
    assert 1 <= len(parts) < 12, "the kill came too late to show anything"
    assert workspace.manifest("extract") is None  # nobody sees the unfinished version
    (parts[0].parent / "part-000090.parquet").write_bytes(parts[0].read_bytes()[:1000])  # as if a part had been torn
    (parts[0].parent / "part-000091.parquet.new").write_bytes(parts[0].read_bytes())

    manifest, _ = run_stage(workspace, STAGE, config)
    assert workspace.read("features")["video_id"].to_pylist() == [name for name in uris if name != "bad"]
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (49, 48, 1)
    assert {path: path.stat().st_mtime_ns for path in parts} == before
    assert not list(parts[0].parent.glob("*.new"))


def test_a_second_run_does_only_what_is_new_or_changed(
    tmp_path: Path, catalog_of: CatalogOf, small: Features, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending: list[list[str]] = []
    extracted = extract._extracted

    def note(rows: pa.Table, *arguments: Any) -> Iterator[pa.Table]:
        pending.append(rows["video_id"].to_pylist())
        return extracted(rows, *arguments)

    monkeypatch.setattr("rayrec.stages.extract._extracted", note)
    monkeypatch.setattr("rayrec.stages.extract.PART_VIDEOS", 2)
    clips = {f"v{number}": str(write_clip(tmp_path / f"v{number}.mp4", sound=tone(440, 1.0))) for number in range(5)}
    quick = small.model_copy(update={"image": None, "motion": None, "decoders": 1})
    workspace, config = catalog_of(clips, features=quick)
    run_stage(workspace, STAGE, config)
    before = {row["video_id"]: row for row in workspace.read("features").to_pylist()}

    # v1 is another file now, v2 has gone, v5 is new, and all titles have changed.
    write_clip(tmp_path / "v1.mp4", frames=12)
    del clips["v2"]
    clips["v5"] = clips["v0"]
    catalog_of(clips, title="another", features=quick)
    manifest, _ = run_stage(workspace, STAGE, config)
    assert pending.pop() == ["v1", "v5"]
    assert (manifest.rows_in, manifest.rows_out) == (5, 5)
    after = {row["video_id"]: row for row in workspace.read("features").to_pylist()}
    assert list(after) == ["v0", "v3", "v4", "v1", "v5"]  # what was kept comes first
    assert all(after[name] == before[name] for name in ("v0", "v3", "v4"))
    assert (before["v1"]["frames"], after["v1"]["frames"]) == (24, 12)

    # Nothing is pending when only titles change; other settings, and force, keep nothing.
    monkeypatch.setattr("rayrec.stages.on_ray.extraction.load_networks", lambda *_: pytest.fail("a network was loaded"))
    catalog_of(clips, title="a third", features=quick)
    assert run_stage(workspace, STAGE, config)[1]
    assert pending.pop() == []
    monkeypatch.setattr("rayrec.stages.extract._extracted", lambda rows, *_: pending.append(rows["video_id"].to_pylist()) or ())
    run_stage(workspace, STAGE, config.model_copy(update={"seed": 8}))
    assert pending.pop() == list(clips)


def test_a_title_is_part_of_the_version_where_titles_are_read(tmp_path: Path, catalog_of: CatalogOf, small: Features) -> None:
    clip = str(write_clip(tmp_path / "a.mp4"))
    versions = []
    for text, title in ((None, "one"), (None, "two"), (TextFeatures(), "one"), (TextFeatures(), "two")):
        workspace, config = catalog_of({"a": clip}, title=title, features=small.model_copy(update={"text": text}))
        run = StageRun(workspace, STAGE, config, "0", {}, None)
        versions.append(extract._media(run)["file_version"][0].as_py())
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def finished_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("workspace/extract/*/features/*.parquet"))


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
    without = config.model_copy(update={"features": config.features.model_copy(update={"motion": None})})
    assert extract.settings(config) != extract.settings(without)
    # A weights file is what is in it.
    path = tmp_path / "weights.pt"
    image = config.features.image.model_copy(update={"weights": str(path)})
    weighted = config.model_copy(update={"features": config.features.model_copy(update={"image": image})})
    absent = extract.settings(weighted)
    path.write_bytes(b"some")
    assert absent != extract.settings(weighted) != extract.settings(config)


def test_real_clips(real_videos: list[Path], small: Features) -> None:
    networks = load_networks(small, 7)
    used = resolved(small, networks)
    features = network_rows(decode_rows(rows_of(real_videos), used), used, networks).to_pandas()
    assert (features["status"] == "ok").all()
    assert features["duration_s"].between(9.9, 18.3).all()
    assert features["frames"].between(300, 355).all()
    assert features["fps"].between(19, 31).all()
    assert (features["sample_rate"] == 44_100).all()
    for name in ("image", "cover", "motion", "audio"):
        vectors = np.stack(features[name])
        assert np.isfinite(vectors).all(), name
        assert len(np.unique(vectors, axis=0)) == 4, name
