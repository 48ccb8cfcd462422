"""A search tries what its space allows, survives failures and kills, and ends with a config that trains."""

import csv
import json
from pathlib import Path

import pytest

from rayrec.config import Config, ConfigError, load, with_values
from rayrec.errors import RayrecError
from rayrec.stages import tune
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.stages.tune import STAGE as TUNE
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.training.small_log import GOALS, ingest

YAML = """
seed: 3 # with which the first trial that Optuna proposes is good and the second is bad
ranker: {embedding_size: 4, hidden: [8], history_length: 5, item_fields: [tags]}
training: {epochs: 2, batch_size: 128}
tuning:
  space:
    ranker.model: [deepfm, fm]
    ranker.embedding_size: [4, 8]
    ranker.hidden: [[8], [8, 4]]
    ranker.history_length: {low: 2, high: 6}
    training.learning_rate: [1.0e-2, 1.0e+30]
  trials: 2
  concurrent: 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "small.yaml").write_text(f"workspace: {tmp_path / 'space'}\n{YAML}")
    return load(tmp_path / "small.yaml")


def test_a_killed_search_continues_and_a_failed_trial_is_a_row(
    config: Config, ray_cluster: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(config.workspace)
    run_stage(workspace, ingest(1500), config)

    def die(*arguments: object, **more: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(tune.TrialLogger, "on_trial_complete", die)
        with pytest.raises(RayrecError, match="all 2 trials failed"):
            run_stage(workspace, TUNE, config)
    caplog.set_level("INFO", "rayrec")
    run_stage(workspace, TUNE, config)
    assert "continuing its trials" in caplog.text

    folder = Path(workspace.folder("tune"))
    trials = json.loads((folder / "trials.json").read_text())
    assert sorted(trial["number"] for trial in trials) == [1, 2]
    for trial in trials:
        assert (trial["status"] == "failed") == (trial["values"]["training.learning_rate"] == 1e30)
        assert trial["values"]["ranker.hidden"] in ([8], [8, 4])
        assert trial["values"]["ranker.history_length"] in range(2, 7)
    failed = [trial for trial in trials if trial["status"] == "failed"]
    assert len(failed) == 1
    assert all("training diverged" in trial["reason"] for trial in failed)
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == [trial["number"] for trial in trials]
    best = load(folder / "best.yaml")
    assert best == with_values(config, trials[0]["values"]).model_copy(update={"tuning": best.tuning})
    pictures = ["cost.png", "embedding_size.png", "parallel_coordinates.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*pictures, "best.yaml", "manifest.json", "trials.csv", "trials.json"]
    )
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


def test_goals_are_searched_like_other_settings(config: Config, ray_cluster: str) -> None:
    """Their weights and losses, and what stands before their towers; the best config has them in their order, and trains."""
    workspace = Workspace(config.workspace)
    space = {
        "ranker.goals.watch.loss": ["weighted_logistic", "quantiles"],
        "ranker.goal_network.kind": ["mmoe", "ple"],
        "ranker.goals.like.weight": {"low": 0.5, "high": 2.0},
    }
    goals = {name: GOALS[name] for name in ("like", "click", "watch")}
    config = with_values(config, {"ranker.goals": goals, "ranker.model": "deepfm", "training.epochs": 1, "tuning.space": space})
    run_stage(workspace, ingest(1500, labels=True), config)
    run_stage(workspace, TUNE, config)
    folder = Path(workspace.folder("tune"))
    trials = json.loads((folder / "trials.json").read_text())
    assert [trial["status"] for trial in trials] == ["finished"] * 2
    best = load(folder / "best.yaml")
    values = trials[0]["values"]
    assert list(best.ranker.goals) == list(goals)
    assert best.ranker.goals["watch"].loss == values["ranker.goals.watch.loss"]
    assert best.ranker.goals["like"].weight == values["ranker.goals.like.weight"]
    assert best.ranker.goal_network.kind == values["ranker.goal_network.kind"]
    run_stages([load_stage("train")], best)
    (epoch,) = json.loads((Path(workspace.folder("train")) / "ranker" / "progress.json").read_text())["epochs"]
    assert epoch["validation_auc"] == pytest.approx(trials[0]["summary"]["auc"], abs=1e-6)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{}", "it is empty"),
        ("{ranker.modle: [fm]}", "unknown key 'ranker.modle'; did you mean 'ranker.model'"),
        ("{ranker.model: [fm, deepfn]}", "there is no model 'deepfn'; did you mean 'deepfm'"),
        ("{ranker.hidden: [[64], 64]}", "ranker.hidden: must be a list"),
        ("{ranker.dropout: {low: 0.0, high: 1.5}}", "ranker.dropout: must be 1 or less"),
        ("{ranker.options.heads: [1, 2], ranker.model: [fm, deepfm]}", "model 'fm' has no option 'heads'"),
        ("{split.test: [0.1, 0.2]}", "split.test can't differ"),
    ],
)
def test_a_space_that_can_not_be_searched_is_refused_with_the_reason(space: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tune.check_space(load(None, [f"tuning.space={space}"]))


def test_an_option_is_valid_when_one_of_the_models_has_it_and_whole_numbers_stay_whole() -> None:
    config = load(None, ["tuning.space={ranker.model: [fm, afm], ranker.options.attention_size: {low: 4, high: 8}}"])
    tune.check_space(config)
    spans = {
        "ranker.options.attention_size": "{low: 4, high: 8}",
        "ranker.embedding_size": "{low: 4, high: 8, log: true}",
        "ranker.dropout": "{low: 0, high: 1}",
    }
    for key, span in spans.items():
        searched = load(None, [f"tuning.space={{ranker.model: [fm, afm], {key}: {span}}}"])
        drawn = {tune._tune_domain(searched, key, searched.tuning.space[key]).sample() for _ in range(200)}
        if key == "ranker.dropout":
            assert len(drawn) > 100
            assert all(0 <= value <= 1 for value in drawn)
        else:
            assert drawn == {4, 5, 6, 7, 8}
