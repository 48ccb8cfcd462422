"""All stages on a world of two dozen videos: their tables, the metrics, and what a second run redoes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayrec.cli import app
from rayrec.cli.stages import HELP
from rayrec.config import Config, load
from rayrec.evaluation.popularity import CLICK_RATE
from rayrec.evaluation.popularity import NAMES as POPULARITY
from rayrec.stages.pipeline import ROAD, load_stage, run_stages, stages_for
from rayrec.workspace.versions import Manifest, Workspace

ROOT = Path(__file__).parents[2]
TINY = """
dataset: {kind: world, videos: 24, users: 40, topics: 6, days: 3, requests: 300, picture: 64, fps: 8}
features:
  image: {model: resnet18, weights: none, output: pooled, frames: 2, size: 32}
  motion: {model: r3d_18, weights: none, output: pooled, frames: 4, size: 32}
  decoders: 1 # the start of each costs more than all of the clips
topics: {clusters: 6, epochs: 4, batch_size: 12, walks_per_tag: 2, tag_size: 16}
split: {validation: 0.2, test: 0.2}
ranker: {embedding_size: 4, hidden: [8]}
training: {epochs: 2, batch_size: 128}
recall: {candidates: 20}
"""


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "tiny.yaml"
    path.write_text(f"workspace: {path.parent / 'space'}\n{TINY}")
    return path


@pytest.fixture(scope="module")
def config(config_path: Path, ray_cluster: str) -> Config:
    """The config of a tiny world on which all stages have run."""
    config = load(config_path)
    run_stages(stages_for(config), config)
    return config


def run(config: Config) -> dict[str, bool]:
    """Which stages a run of all stages had to do."""
    done: dict[str, bool] = {}

    def note(manifest: Manifest, worked: bool) -> None:
        done[manifest.stage] = worked

    run_stages(stages_for(config), config, on_done=note)
    return done


def test_every_stage_left_its_tables_and_counts(config: Config) -> None:
    workspace = Workspace(config.workspace)
    for name in (stage.name for stage in stages_for(config)):
        manifest = workspace.manifest(name)
        assert manifest is not None
        assert {*load_stage(name).writes} - {"tracks", "ratings"} <= {*manifest.tables}  # this world has no music
        assert manifest.rejects == 0
    assert workspace.read("features").num_rows == workspace.read("topics").num_rows == 24
    assert workspace.read("features")["image"].null_count == 0
    assert all(len(topics) for topics in workspace.read("topics")["topics"].to_pylist())


def test_the_report_compares_with_popularity_and_with_the_best_possible(config: Config) -> None:
    workspace = Workspace(config.workspace)
    report = json.loads((Path(workspace.folder("evaluate")) / "report.json").read_text())
    models = ["with topics", "without topics", *POPULARITY, "best possible"]
    assert list(report["clicks"]) == list(report["pages"]) == models
    assert report["clicks"]["best possible"]["auc"] == max(metrics["auc"] for metrics in report["clicks"].values())
    true_ctr = {name: metrics["expected_ctr"] for name, metrics in report["pages"].items()}
    assert true_ctr["best possible"] == max(true_ctr.values())
    for metrics in report["pages"].values():
        assert 0 < metrics["expected_likes"] < metrics["expected_ctr"] < 1
        assert metrics["expected_ctr"] < metrics["expected_watch_s"] < 5.9 * metrics["expected_ctr"]  # the longest clip's seconds
    predictions = workspace.read("predictions")
    assert set(predictions["model"].to_pylist()) == {"with topics", "without topics", CLICK_RATE, "best possible"}
    assert predictions.num_rows == report["impressions"] * 4
    for stage, pictures in (("evaluate", 2), ("train", 1)):
        assert [path.read_bytes()[:4] for path in Path(workspace.folder(stage)).glob("*.png")] == [b"\x89PNG"] * pictures


def test_nothing_is_redone_until_something_changes(config: Config) -> None:
    assert run(config) == dict.fromkeys((stage.name for stage in stages_for(config)), False)
    changed = config.model_copy(update={"recall": config.recall.model_copy(update={"candidates": 10})})
    assert run(changed) == {name: name in ("evaluate", "publish") for name in run(config)}


def test_training_with_as_many_workers_as_there_is_room_for(config: Config) -> None:
    training = config.training.model_copy(update={"workers": 1, "max_workers": 2, "epochs": 1, "without_topics": False})
    run_stages([load_stage("train")], config.model_copy(update={"training": training}))
    folder = Path(Workspace(config.workspace).folder("train")) / "ranker"
    (epoch,) = json.loads((folder / "progress.json").read_text())["epochs"]
    assert 0 < epoch["loss"] < 2


def test_status_and_errors_on_the_command_line(config: Config, config_path: Path) -> None:
    status = CliRunner().invoke(app, ["status", str(config_path)])
    assert status.exit_code == 0
    assert "interactions" in status.output
    wrong = CliRunner().invoke(app, ["train", str(config_path), "trainning.epochs=2"])
    assert wrong.exit_code == 1
    assert "did you mean 'training'" in wrong.stderr
    assert "Traceback" not in wrong.output


def test_some_stages_run_only_if_the_config_has_their_section() -> None:
    demo = load(ROOT / "configs" / "demo.yaml")
    left_out = ("private_public", "collaborative")
    assert [stage.name for stage in stages_for(demo)] == [name for name in ROAD if name not in left_out]
    everything = load(ROOT / "configs" / "demo.yaml", ["private_public={}", "collaborative={}"])
    assert stages_for(everything) == [load_stage(name) for name in ROAD]
    assert not {"search_index", "music"} & {stage.name for stage in stages_for(load(None))}


def test_every_stage_of_the_road_is_a_command() -> None:
    assert [name for name in ROAD if name != "topics"] == list(HELP)
    for name in ROAD:
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_what_is_no_mistake_of_the_user_keeps_its_traceback(config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("rayrec.stages.pipeline.names_for", fail)
    result = CliRunner().invoke(app, ["status", str(config_path)])
    assert isinstance(result.exception, ValueError)
    assert result.stderr == ""
