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
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, Features, ImageFeatures, Maps, TextFeatures
from rayrec.features.part_files import write_rows
from rayrec.features.rows import EXTRACTED, decode_rows, load_networks, network_rows, resolved
from rayrec.stages import extract
from rayrec.tables import MapShape
from rayrec.workspace.files import checksum
from rayrec.workspace.stage import StageRun, run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.features.clips import cut, tone, write_clip
from tests.features.doomed import doomed

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
    assert features.keys() == {"good0", "good1", "good2", "silent", "blind", "single", "partial"}
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


def test_a_file_that_kills_its_decoder_costs_only_itself(
    tmp_path: Path, catalog_of: CatalogOf, small: Features, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayrec.stages.on_ray.extraction.decode_rows", doomed)
    quick = small.model_copy(update={"image": None, "motion": None, "decoders": 1})
    good = {f"good{number}": str(write_clip(tmp_path / f"good{number}.mp4", frames=6 + number)) for number in range(5)}
    bad = {name: str(tmp_path / f"{name}.mp4") for name in ("abort", "killed")}
    workspace, config = catalog_of(good, features=quick)
    run_stage(workspace, STAGE, config)
    alone = workspace.read("features")

    names = ["good0", "abort", "good1", "good2", "killed", "good3", "good4"]
    catalog_of({name: (good | bad)[name] for name in names}, features=quick)
    # Another seed does not change what is decoded, but the rows of the run before are not kept.
    manifest, _ = run_stage(workspace, STAGE, config.model_copy(update={"seed": config.seed + 1}))
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (7, 5, 2)
    assert workspace.read("features").sort_by("video_id").equals(alone.sort_by("video_id"))
    rejects = workspace.rejects("extract").to_pylist()
    assert [(row["id"], row["source"]) for row in rejects] == list(bad.items())
    assert ["SIGABRT" in rejects[0]["reason"], "SIGKILL" in rejects[1]["reason"]] == [True, True]


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
    (parts[0].parent / "part-000090-0a1b2c3d.parquet").write_bytes(parts[0].read_bytes()[:1000])  # as if a part had been torn
    (parts[0].parent / "part-000091-0a1b2c3d.parquet.new").write_bytes(parts[0].read_bytes())

    manifest, _ = run_stage(workspace, STAGE, config)
    assert sorted(workspace.read("features")["video_id"].to_pylist()) == [name for name in uris if name != "bad"]
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (49, 48, 1)
    assert {path: path.stat().st_mtime_ns for path in parts} == before
    assert not list(parts[0].parent.glob("*.new"))


def test_a_second_run_does_only_what_is_new_or_changed(
    tmp_path: Path, catalog_of: CatalogOf, small: Features, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending: list[list[str]] = []
    extract_pending = extract._extract

    def note(run: StageRun, rows: pa.Table, *arguments: Any) -> None:
        pending.append(rows["video_id"].to_pylist())
        extract_pending(run, rows, *arguments)

    monkeypatch.setattr("rayrec.stages.extract._extract", note)
    monkeypatch.setattr("rayrec.stages.extract.PART_VIDEOS", 2)
    clips = {f"v{number}": str(write_clip(tmp_path / f"v{number}.mp4", sound=tone(440, 1.0))) for number in range(5)}
    # One decoder takes the videos in their order, two in a block.
    quick = small.model_copy(update={"image": None, "motion": None, "decoders": 1, "batch_videos": 2})
    workspace, config = catalog_of(clips, features=quick)
    run_stage(workspace, STAGE, config)
    before = {row["video_id"]: row for row in workspace.read("features").to_pylist()}
    second, last = workspace.parts("features")[1:]

    # v1 is another file now, v2 has gone, v5 is new, and all titles have changed.
    write_clip(tmp_path / "v1.mp4", frames=12)
    del clips["v2"]
    clips["v5"] = clips["v0"]
    catalog_of(clips, title="another", features=quick)
    manifest, _ = run_stage(workspace, STAGE, config)
    assert pending.pop() == ["v1", "v5"]
    assert (manifest.rows_in, manifest.rows_out) == (5, 5)
    after = {row["video_id"]: row for row in workspace.read("features").to_pylist()}
    assert after.keys() == {"v0", "v1", "v3", "v4", "v5"}
    assert last in workspace.parts("features")  # shared: its video is as it was
    assert second not in workspace.parts("features")  # v2 was in it, so v3 was copied
    assert all(after[name] == before[name] for name in ("v0", "v3", "v4"))
    assert (before["v1"]["frames"], after["v1"]["frames"]) == (24, 12)

    # The videos of a damaged part are done again.
    copied = next(Path(path) for path in workspace.parts("features") if pq.read_table(path)["video_id"].to_pylist() == ["v0", "v3"])
    copied.write_bytes(bytes(copied.stat().st_size))
    catalog_of(clips, title="a third", features=quick)
    run_stage(workspace, STAGE, config)
    assert pending.pop() == ["v0", "v3"]
    assert {row["video_id"]: row for row in workspace.read("features").to_pylist()} == after

    # Nothing is pending when only titles change; other settings, and force, keep nothing.
    monkeypatch.setattr("rayrec.stages.on_ray.extraction.load_networks", lambda *_: pytest.fail("a network was loaded"))
    parts = workspace.parts("features")
    catalog_of(clips, title="a fourth", features=quick)
    assert run_stage(workspace, STAGE, config)[1]
    assert pending.pop() == []
    assert workspace.parts("features") == parts
    monkeypatch.setattr("rayrec.stages.extract._extract", lambda run, rows, *_: pending.append(rows["video_id"].to_pylist()))
    run_stage(workspace, STAGE, config.model_copy(update={"seed": 8}))
    assert pending.pop() == list(clips)


def test_a_video_that_comes_later_gets_maps_by_the_same_numbers(
    tmp_path: Path, catalog_of: CatalogOf, small: Features, ray_cluster: str
) -> None:
    image = ImageFeatures(model="resnet18", weights="none", frames=1, size=32, maps=Maps(channels=2, grid=3))
    features = small.model_copy(update={"image": image, "motion": None, "audio": None})
    clip = str(write_clip(tmp_path / "a.mp4"))
    workspace, config = catalog_of({"a": clip}, features=features)
    run_stage(workspace, STAGE, config)
    first = workspace.parts("features")
    catalog_of({"a": clip, "later": clip}, features=features)
    run_stage(workspace, STAGE, config)
    assert set(first) < set(workspace.parts("features"))
    rows = {row["video_id"]: row for row in workspace.read("features").to_pylist()}
    shape = MapShape.from_json(rows["later"]["maps_shape"])
    assert (shape.channels, shape.side, len(rows["later"]["maps"])) == (2, 3, shape.size)
    assert rows["later"]["maps"] == pytest.approx(rows["a"]["maps"], abs=1e-4)


def test_a_title_is_part_of_the_version_where_titles_are_read(tmp_path: Path, catalog_of: CatalogOf, small: Features) -> None:
    clip = str(write_clip(tmp_path / "a.mp4"))
    versions = []
    for text, title in ((None, "one"), (None, "two"), (TextFeatures(), "one"), (TextFeatures(), "two")):
        workspace, config = catalog_of({"a": clip}, title=title, features=small.model_copy(update={"text": text}))
        run = StageRun(workspace, STAGE, config, "0", {}, None)
        versions.append(extract._media(run)["file_version"][0].as_py())
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_videos_without_a_file_have_their_titles_read(catalog_of: CatalogOf, small: Features) -> None:
    for text, title, expected in ((None, "one", 0), (TextFeatures(), None, 0), (TextFeatures(), "one", 2)):
        workspace, config = catalog_of({"a": None, "b": None}, title=title, features=small.model_copy(update={"text": text}))
        media = extract._media(StageRun(workspace, STAGE, config, "0", {}, None))
        assert media.num_rows == expected
        assert media["file_version"].null_count == 0  # which would mean a file that is missing


def test_a_cover_is_part_of_the_version(tmp_path: Path, catalog_of: CatalogOf) -> None:
    clip, cover = str(write_clip(tmp_path / "a.mp4")), tmp_path / "a.png"
    uris = {"a": clip, "alone": None, "none": clip}

    def looked_at(covers: dict[str, str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
        workspace, config = catalog_of(uris, covers=covers)
        media = extract._media(StageRun(workspace, STAGE, config, "0", {}, None))
        versions = dict(zip(media["video_id"].to_pylist(), media["file_version"].to_pylist(), strict=True))
        return versions, extract.sources(workspace, config)

    covers = {"a": str(cover), "alone": "https://host/b.png"}
    without, with_missing = looked_at({}), looked_at(covers)
    assert without[0].keys() == {"a", "none"}
    cover.write_bytes(b"one")
    first = looked_at(covers)
    cover.write_bytes(b"another")
    second = looked_at(covers)
    assert len({versions["a"] for versions, _ in (without, with_missing, first, second)}) == 4
    assert without[0]["none"] == second[0]["none"]
    assert with_missing[0]["alone"] == second[0]["alone"] != looked_at(covers | {"alone": "https://host/c.png"})[0]["alone"]
    assert len({str(facts) for _, facts in (without, with_missing, first, second)}) == 4


def finished_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("workspace/extract/*/features/*.parquet"))


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


def test_progress_is_logged_by_time(
    catalog_of: CatalogOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without Ray: the rows come in blocks of two, and the second block takes longer than the time between two lines."""

    def extract_rows(rows: pa.Table, config: Config) -> Iterator[tuple[pa.Table, int]]:
        for start in range(0, rows.num_rows, 2):
            if start:
                deadline = time.monotonic() + 10
                while len(caplog.messages) <= start and time.monotonic() < deadline:
                    time.sleep(0.005)
            yield (block := rows.slice(start, 2)), block.num_rows

    monkeypatch.setattr("rayrec.stages.on_ray.extraction.extract_rows", extract_rows)
    monkeypatch.setattr("rayrec.stages.on_ray.writing.write_blocks", lambda blocks, *_: filter(lambda _: False, blocks))
    monkeypatch.setattr(extract, "LOG_S", 0.02)
    workspace, config = catalog_of({})
    names = [f"v{number}" for number in range(5)]
    run = StageRun(workspace, STAGE, config, "0", {"networks": "resnet18"}, None)
    with caplog.at_level("INFO", "rayrec.stages.extract"):
        extract._extract(
            run, pa.table({"uri": names, "cover_uri": names} | dict.fromkeys(extract.GIVEN, names)), 6, extract.NewParts(run)
        )
    networks, *progress = caplog.messages
    assert networks == "extract: resnet18"
    assert progress[0].startswith("extract: 3 of 6 videos, ")
    assert len(progress) > 4
    assert progress[-1].startswith("extract: 6 of 6 videos, ")
    assert not progress[-2].startswith("extract: 6 of 6 videos, ")


def test_what_a_dead_run_writes_late_is_not_read(catalog_of: CatalogOf) -> None:
    """And a part that a worker has written on a disk of its own is missed at once."""
    workspace, config = catalog_of({})
    run = StageRun(workspace, STAGE, config, "0", {"networks": "resnet18"}, None)
    parts = extract.NewParts(run)
    mine, late = (write_rows(workspace.uri, next(extract.NewParts(run).names), extracted_rows(name)) for name in ("a", "b"))
    parts.add(mine)
    assert parts.finish()["video_id"].to_pylist() == ["a"]
    assert not Path(late.path).exists()
    assert run.written == {"features": 1}
    assert run.facts == {f"features/{Path(mine.path).name}": (Path(mine.path).stat().st_size, checksum(workspace.fs, mine.path))}
    Path(mine.path).unlink()
    with pytest.raises(WorkspaceError, match="which is not there; `workspace` must be a folder that all machines"):
        parts.finish()


def extracted_rows(*names: str) -> pa.Table:
    """Rows of EXTRACTED with nothing in them."""
    rows = pa.table({field.name: pa.nulls(len(names), field.type) for field in EXTRACTED}, EXTRACTED)
    for name, values in (("video_id", names), ("status", ["ok"] * len(names))):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, pa.large_string()))
    return rows
