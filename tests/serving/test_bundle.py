"""The bundle: what publish wrote is what serving reads, and what was tampered with is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rayrec.config import Config, with_values
from rayrec.serving.bundle import ITEMS_WITH_COVERS, Bundle, BundleError, load_scorer, locate, verify
from rayrec.serving.covers import PLACE
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.serving.small_world import (
    JPEG,
    LOG_STARTS,
    TRAIN,
    author_of,
    build_workspace,
    catalog,
    embeddings,
    interactions,
    topic_of,
    video,
    write_tables,
)

FS = pafs.LocalFileSystem()


def load(workspace: Workspace) -> Bundle:
    version, folder = locate(workspace, None)
    return Bundle.load(workspace.fs, folder, version)


@pytest.fixture
def copy(published: Config, tmp_path: Path) -> Path:
    """The published bundle in a folder that a test may spoil."""
    return Path(shutil.copytree(locate(Workspace(published.workspace), None)[1], tmp_path / "bundle"))


def test_items_stand_in_the_rankers_order_with_what_the_tables_say(bundle: Bundle, published: Config) -> None:
    workspace = Workspace(published.workspace)
    scorer = load_scorer(workspace.fs, locate(workspace, None)[1])
    assert bundle.item_ids == scorer.item_ids
    item = bundle.item_of["v6"]
    facts = bundle.facts_of(np.array([item]))[0]
    assert (facts["title"], facts["tags"], facts["topics"]) == ("<b>Clip</b> 6 of guitars", ["guitar", "song"], [2])
    assert bundle.cover(item) == JPEG
    assert bundle.cover(bundle.item_of["v7"]) is None
    assert bundle.words[2] == ["guitar", "song"]
    assert bundle.item_topics.of_items(np.array([item]))[0] == 2
    assert bundle.published_at()[item] == LOG_STARTS


def test_counters_are_those_of_the_log_by_user_and_day(bundle: Bundle) -> None:
    exposures, clicks = bundle.counters()
    shown = interactions().to_pylist()
    for n in (0, 5, 15, 39):
        days = [(row["user_id"], row["shown_at"] // 86_400_000, row["clicked"]) for row in shown if row["video_id"] == video(n)]
        assert exposures[bundle.item_of[video(n)]] == len({(user, day) for user, day, _ in days})
        assert clicks[bundle.item_of[video(n)]] == len({(user, day) for user, day, clicked in days if clicked})
    assert exposures[0] == clicks[0] == 0


def test_a_users_log_is_in_time_order(bundle: Bundle) -> None:
    rows = [row for row in interactions().to_pylist() if row["user_id"] == "u3"]
    log = bundle.user("u3")
    assert [bundle.item_ids[item] for item in log.clicked] == [row["video_id"] for row in rows if row["clicked"]]
    assert log.clicked_at.tolist() == [row["shown_at"] for row in rows if row["clicked"]]
    last_shown = {row["video_id"]: row["shown_at"] for row in rows}
    assert [bundle.item_ids[item] for item in log.seen] == sorted(last_shown, key=last_shown.__getitem__)
    assert all(topic_of(item - 1) == 3 for item in log.clicked)
    for stranger in ("nobody", "", "zz"):
        assert len(bundle.user(stranger).clicked) == 0


def test_users_are_found_by_id_and_the_busiest_first(bundle: Bundle) -> None:
    rows = interactions().to_pylist()
    clicks = {f"u{user}": sum(row["clicked"] for row in rows if row["user_id"] == f"u{user}") for user in range(12)}
    for user, count in clicks.items():
        assert len(bundle.user(user).clicked) == count
    busiest = bundle.top_users(5)
    assert len(set(busiest)) == 5
    assert [clicks[user] for user in busiest] == sorted(clicks.values(), reverse=True)[:5]


def test_authors_have_numbers(bundle: Bundle) -> None:
    by_number = {number: name for name, number in bundle.authors.items()}
    assert [by_number.get(number) for number in bundle.author_of[1:]] == [author_of(n) for n in range(40)]
    assert (bundle.author_of[0], bundle.author_of.dtype) == (0, np.int32)


def test_vectors_stand_in_item_order(bundle: Bundle) -> None:
    assert bundle.vectors is not None
    assert bundle.vectors.shape == (40, 4)
    expected = np.stack(embeddings(39)["vector"].to_numpy(zero_copy_only=False))
    rows = [bundle.item_of[video(n)] - 1 for n in range(39)]
    np.testing.assert_array_equal(bundle.vectors[rows], expected)
    assert not bundle.vectors[bundle.item_of["v39"] - 1].any()


def test_a_bundle_knows_how_good_its_ranker_was_found(tmp_path: Path) -> None:
    """Only a report on this very ranker counts."""
    config = build_workspace(tmp_path)
    workspace = Workspace(config.workspace)
    assert load(workspace).info.metrics == {}
    run_stage(workspace, load_stage("evaluate"), config)
    assert load(workspace).info.metrics == {}
    run_stage(workspace, load_stage("publish"), config)
    metrics = load(workspace).info.metrics
    assert 0 < metrics["auc"] <= 1
    assert {"ndcg", "candidate_recall"} < set(metrics)
    run_stage(workspace, TRAIN, config, force=True)
    run_stage(workspace, load_stage("publish"), config)
    assert load(workspace).info.metrics == {}


def test_a_data_set_of_catalog_and_log_alone_makes_a_bundle(tmp_path: Path) -> None:
    config, workspace = with_values(Config(), {"workspace": str(tmp_path), "ranker.topics": False}), Workspace(tmp_path)
    for stage in (write_tables({"catalog": catalog(tmp_path), "interactions": interactions()}), TRAIN, load_stage("publish")):
        run_stage(workspace, stage, config)
    bare = load(workspace)
    assert bare.vectors is None
    assert not len(bare.item_topics.topics)
    assert bare.cover(1) is None


def test_histories_keep_the_latest_clicks(tmp_path: Path) -> None:
    config = build_workspace(tmp_path, **{"recall.clicks": 2, "ranker.history_length": 3})
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    short, rows = Bundle.load(workspace.fs, folder, version), interactions().to_pylist()
    clicked = [row["video_id"] for row in rows if row["user_id"] == "u3" and row["clicked"]]
    assert [short.item_ids[item] for item in short.user("u3").clicked] == clicked[-3:]  # the longer of the two


def test_a_click_is_dated_by_its_own_time(tmp_path: Path) -> None:
    config, workspace = build_workspace(tmp_path), Workspace(tmp_path)
    log = interactions()
    mine = [row for row, user in enumerate(log["user_id"].to_pylist()) if user == "u3" and log["clicked"][row].as_py()]
    late = pa.array([LOG_STARTS + 10**9 if row == mine[0] else None for row in range(log.num_rows)], pa.int64())
    tables = {"catalog": catalog(tmp_path), "interactions": log.append_column("clicked_at", late)}
    for stage in (write_tables(tables), load_stage("publish")):
        run_stage(workspace, stage, config, force=True)
    found, expected = load(workspace).user("u3"), [*mine[1:], mine[0]]
    assert [f"v{item - 1}" for item in found.clicked] == log["video_id"].take(expected).to_pylist()
    assert found.clicked_at.tolist() == [*log["shown_at"].take(mine[1:]).to_pylist(), LOG_STARTS + 10**9]


def test_a_model_of_sessions_gets_more_clicks_than_it_reads(tmp_path: Path) -> None:
    """Its sessions are cut from them, as in training."""
    config = build_workspace(tmp_path, **{"recall.clicks": 2, "ranker.history_length": 3, "ranker.model": "sdin"})
    clicked = sum(row["clicked"] for row in interactions().to_pylist() if row["user_id"] == "u3")
    assert len(load(Workspace(config.workspace)).user("u3").clicked) == clicked > 3


def test_the_ingress_half_needs_no_torch(copy: Path) -> None:
    code = f"""
import sys, pyarrow.fs
import rayrec.serving.cluster.deployments
from rayrec.serving.bundle import Bundle
Bundle.load(pyarrow.fs.LocalFileSystem(), {str(copy)!r}, "v").user("u1")
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(
    "name", ["items.arrow", "topics.arrow", "users.arrow", "bundle.json", "checksums.json", "ranker/ranker.json"]
)
def test_a_bundle_without_one_of_its_files_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    for read in readers(copy, name):
        with pytest.raises(BundleError, match=rf"{name}: the bundle lacks this file; run `rayrec publish CONFIG`"):
            read()


@pytest.mark.parametrize("name", ["items.arrow", "users.arrow", "bundle.json", "ranker/weights.safetensors"])
def test_a_changed_file_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    for read in readers(copy, name):
        with pytest.raises(BundleError, match=f"{name} is not the file that was published"):
            read()


def readers(folder: Path, name: str) -> list[Callable[[], object]]:
    """Whoever reads this file of a bundle."""
    load_part = (lambda: load_scorer(FS, str(folder))) if name.startswith("ranker/") else lambda: Bundle.load(FS, str(folder), "v")
    return [load_part, lambda: verify(FS, str(folder))]


def test_the_ingress_does_not_read_the_ranker_nor_the_ranker_the_tables(copy: Path) -> None:
    shutil.move(copy / "ranker", copy.parent / "ranker")
    assert len(Bundle.load(FS, str(copy), "v").item_ids) == 41
    shutil.move(copy.parent / "ranker", copy / "ranker")
    for path in copy.glob("*.arrow"):
        path.unlink()
    assert len(load_scorer(FS, str(copy)).item_ids) == 41


def test_a_bundle_of_format_4_has_its_covers_in_a_column(copy: Path) -> None:
    """A service that was upgraded can go back to it."""
    items = pa.ipc.open_file((copy / "items.arrow").read_bytes()).read_all()
    covers = pa.array([JPEG if n % 2 == 0 else None for n in range(40)], pa.large_binary())
    old = items.drop_columns(list(PLACE)).append_column("cover_jpeg", covers)
    old = old.select(ITEMS_WITH_COVERS.names).cast(ITEMS_WITH_COVERS)
    with pa.OSFile(str(copy / "items.arrow"), "wb") as file, pa.ipc.new_file(file, old.schema) as writer:
        writer.write_table(old)
    (copy / "bundle.json").write_text(json.dumps(json.loads((copy / "bundle.json").read_text()) | {"format": 4}))
    checksums = json.loads((copy / "checksums.json").read_text())
    for name in ("items.arrow", "bundle.json"):
        checksums[name] = hashlib.sha256((copy / name).read_bytes()).hexdigest()
    (copy / "checksums.json").write_text(json.dumps(checksums))
    found = Bundle.load(FS, str(copy), "v")
    assert (found.cover(found.item_of["v6"]), found.cover(found.item_of["v7"])) == (JPEG, None)
    facts = found.facts_of(np.array([found.item_of["v6"], found.item_of["v7"]]))
    assert [each["has_cover"] for each in facts] == [True, False]
    assert "cover_jpeg" not in facts[0]


def test_a_truncated_file_is_refused(copy: Path) -> None:
    for name in ("ranker/weights.safetensors", "checksums.json"):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[:-20])
        with pytest.raises(BundleError):
            load_scorer(FS, str(copy))
        (copy / name).write_bytes(whole)
    load_scorer(FS, str(copy))


def test_a_version_that_was_not_published_is_refused(published: Config, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle 'x'"):
        locate(Workspace(published.workspace), "x")
    with pytest.raises(WorkspaceError, match="rayrec publish"):
        locate(Workspace(tmp_path), None)


def test_a_bundle_of_another_version_is_refused_before_its_fields_are_read(copy: Path) -> None:
    """As rayrec 0.1 wrote it: its `most_clicks` is unknown today."""
    old = {"log_until": LOG_STARTS, "most_clicks": 128, "metrics": {}, "format": 2, "rayrec": "0.1.0"}
    (copy / "bundle.json").write_text(json.dumps(old))
    checksums = json.loads((copy / "checksums.json").read_text())
    checksums["bundle.json"] = hashlib.sha256((copy / "bundle.json").read_bytes()).hexdigest()
    (copy / "checksums.json").write_text(json.dumps(checksums))
    for read in (lambda: Bundle.load(FS, str(copy), "v"), lambda: load_scorer(FS, str(copy)), lambda: verify(FS, str(copy))):
        with pytest.raises(BundleError, match=r"has format 2, but this version of rayrec reads 6; run `rayrec publish CONFIG`"):
            read()
