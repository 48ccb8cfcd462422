"""The stage `evaluate`: it measures a ranker on the tables that it was trained on, and on no others."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, load
from rayrec.evaluation.popularity import CLICK_RATE, CLICKS
from rayrec.ranking.scorer import RankerError
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import TRAIN, catalog, interactions, write_tables


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = load(None, [f"workspace={tmp_path}/workspace"])
    run_stage(Workspace(config.workspace), ingest(catalog(tmp_path), interactions()), config)
    run_stage(Workspace(config.workspace), TRAIN, config)
    return config


def ingest(videos: pa.Table, log: pa.Table) -> Stage:
    return write_tables({"catalog": videos, "interactions": log})


def evaluated(config: Config) -> dict[str, dict[str, float]]:
    workspace = Workspace(config.workspace)
    run_stage(workspace, load_stage("evaluate"), config, force=True)
    return json.loads(workspace.read_file(f"{workspace.folder('evaluate')}/report.json"))["clicks"]


def test_the_same_tables_again_give_the_same_figures(config: Config, tmp_path: Path) -> None:
    before = evaluated(config)
    run_stage(Workspace(config.workspace), ingest(catalog(tmp_path), interactions()), config, force=True)
    assert evaluated(config) == before


@pytest.mark.parametrize("changed", ["order of the catalog", "a video more", "users", "values of a field"])
def test_a_ranker_of_other_tables_is_refused(config: Config, tmp_path: Path, changed: str) -> None:
    videos, log = catalog(tmp_path), interactions()
    if changed == "order of the catalog":
        videos = videos.take(np.random.default_rng(1).permutation(videos.num_rows))
    elif changed == "a video more":
        videos = catalog(tmp_path, 41)
    elif changed == "users":
        log = log.filter(pa.compute.not_equal(log["user_id"], "u3"))
    else:
        videos = videos.set_column(videos.column_names.index("author_id"), "author_id", pa.array(["another"] * 40))
    run_stage(Workspace(config.workspace), ingest(videos, log), config, force=True)
    with pytest.raises(RankerError, match="trained on another catalog or log than the present one; run `rayrec train CONFIG`"):
        evaluated(config)


def test_a_log_of_clicks_alone_is_judged_with_drawn_videos(tmp_path: Path) -> None:
    config = load(None, [f"workspace={tmp_path}/workspace", "training.negatives=2", "ranker.popularity=[7]"])
    workspace, log = Workspace(config.workspace), interactions()
    run_stage(workspace, ingest(catalog(tmp_path), log.filter(log["clicked"])), config)
    run_stage(workspace, TRAIN, config)
    clicks = evaluated(config)
    report = json.loads(workspace.read_file(f"{workspace.folder('evaluate')}/report.json"))
    assert report["drawn"] == 2 * report["impressions"] > 0
    assert CLICK_RATE not in clicks
    assert all(0 <= metrics["auc"] <= 1 for metrics in clicks.values())
    assert clicks[CLICKS]["log_loss"] is None
    predictions = workspace.read("predictions")
    assert predictions.num_rows == report["impressions"]
    assert predictions["clicked"].to_pylist() == [True] * report["impressions"]
    assert evaluated(config) == clicks


def test_the_goals_of_a_ranker_are_measured_and_pages_are_ordered_by_their_formula(tmp_path: Path) -> None:
    goals = "ranker.goals={click: clicked, odds: {label: clicked, loss: weighted_logistic}}"
    pages = {}
    for formula in ("click", "click^-1"):
        config = load(
            None, [f"workspace={tmp_path}/workspace", goals, f"selection.score={formula}", "evaluation.k=3", "split.test=0.6"]
        )
        workspace = Workspace(config.workspace)
        if not pages:
            run_stage(workspace, ingest(catalog(tmp_path), interactions()), config)
            run_stage(workspace, TRAIN, config)
        clicks = evaluated(config)
        report = json.loads(workspace.read_file(f"{workspace.folder('evaluate')}/report.json"))
        pages[formula] = next(iter(report["pages"].values()))["ndcg"]
    found = next(iter(report["goals"].values()))
    assert list(found) == ["click", "odds"]
    assert found["click"]["auc"] == next(iter(clicks.values()))["auc"]
    assert 0 <= found["odds"]["xauc"] <= 1
    assert found["click"]["labels"] == found["odds"]["labels"] == report["impressions"]
    assert pages["click"] != pages["click^-1"]


@pytest.mark.parametrize("known", [True, False], ids=["seconds and likes", "clicks alone, as in earlier versions"])
def test_pages_say_what_is_expected_of_them_where_the_truth_is_known(tmp_path: Path, known: bool) -> None:
    config = load(None, [f"workspace={tmp_path}/workspace", "evaluation.k=5"])
    workspace, log = Workspace(config.workspace), interactions()
    log = log.append_column("request_id", pa.array([f"r{row}" for row in range(log.num_rows)]))
    new = [f"v{16 + row % 20}" if row >= log.num_rows - 24 else video for row, video in enumerate(log["video_id"].to_pylist())]
    log = log.set_column(1, "video_id", pa.array(new))  # so that there is something on the last day that nobody has seen before
    pairs = [(f"u{user}", f"v{number}") for user in range(12) for number in range(40)]
    click = np.array([int(video[1:]) / 100 for _, video in pairs], np.float32)
    truth = pa.table(
        {"user_id": [user for user, _ in pairs], "video_id": [video for _, video in pairs], "click_probability": click}
    )
    if known:
        truth = truth.append_column("watch_s", pa.array(2 * click)).append_column("like_probability", pa.array(click / 2))
    shown = log.select(["request_id", "video_id"]).append_column("click_probability", pa.array([0.3] * log.num_rows, pa.float32()))
    tables = {"catalog": catalog(tmp_path), "interactions": log, "truth_preferences": truth, "truth_clicks": shown}
    run_stage(workspace, write_tables(tables), config)
    run_stage(workspace, TRAIN, config)
    evaluated(config)
    pages = json.loads(workspace.read_file(f"{workspace.folder('evaluate')}/report.json"))["pages"]
    assert pages["best possible"]["expected_ctr"] == max(page["expected_ctr"] for page in pages.values())
    for page in pages.values():
        if known:
            assert page["expected_watch_s"] == pytest.approx(2 * page["expected_ctr"])
            assert page["expected_likes"] == pytest.approx(page["expected_ctr"] / 2)
        else:
            assert not {"expected_watch_s", "expected_likes"} & page.keys()
