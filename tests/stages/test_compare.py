"""Every run is measured as it would be alone; a measured run is kept, and a run that fails does not stop the others."""

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from rayrec.config import Config, ConfigError, Ranker, Training, load
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.ranking.fitting import predict, predict_goals, train_ranker
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.scorer import Scorer
from rayrec.ranking.variants import variant
from rayrec.stages.compare import STAGE as COMPARE
from rayrec.training.callbacks import Epoch
from rayrec.training.metrics import xauc
from rayrec.training.trainer import CPU
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log
from tests.training.small_log import GOALS, ingest

ARMS: dict[str, dict[str, Any]] = {
    "deepfm": {"ranker.model": "deepfm"},
    "fm": {"ranker.model": "fm"},
    "fm without tags": {"ranker.model": "fm", "ranker.item_fields": []},
    "wild": {"ranker.model": "deepfm", "training.learning_rate": 1e30},
}
YAML = f"""
ranker: {{embedding_size: 4, hidden: [8], history_length: 5, item_fields: [tags]}}
training: {{epochs: 2, batch_size: 128, learning_rate: 0.01}}
comparison: {{arms: {json.dumps(ARMS)}, seeds: [1, 2]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "small.yaml").write_text(f"workspace: {tmp_path / 'space'}\n{YAML}")
    config = load(tmp_path / "small.yaml")
    run_stage(Workspace(config.workspace), ingest(1500), config)
    return config


def with_arms(config: Config, arms: dict[str, dict[str, Any]]) -> Config:
    return config.model_copy(update={"comparison": config.comparison.model_copy(update={"arms": arms})})


def compared(config: Config) -> dict[tuple[str, int], dict[str, Any]]:
    workspace = Workspace(config.workspace)
    run_stage(workspace, COMPARE, config)
    pairs = json.loads(workspace.read_file(f"{workspace.folder('compare')}/results.json"))
    return {(pair["arm"], pair["seed"]): pair for pair in pairs}


def test_a_run_is_measured_as_if_it_were_alone(config: Config) -> None:
    pairs = compared(config)
    assert list(pairs) == [(arm, seed) for arm in ARMS for seed in (1, 2)]
    workspace = Workspace(config.workspace)
    for arm, item_fields in (("fm", ["tags"]), ("fm without tags", [])):
        ranker = config.ranker.model_copy(update={"model": "fm", "item_fields": item_fields})
        data = whole_log(workspace, config.model_copy(update={"ranker": ranker}))
        scorer, _ = train_ranker(data, ranker, config.training, seed=2)
        probability = predict(scorer.model, data.test, HistoryGather(data.clicks, LatestClicks(5), CPU), CPU)
        assert pairs[arm, 2]["measured"]["auc"] == pytest.approx(roc_auc_score(data.test.clicked, probability), abs=1e-6)
    folder = Path(workspace.folder("compare"))
    assert (folder / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    text = (folder / "results.md").read_text()
    assert "| wild | - | - | - | - | - |" in text
    assert "- wild, seed 1: training diverged" in text
    assert "1,200 impressions to train, 150 to validate, 150 to test" in text
    assert pairs["wild", 1]["measured"] is None


def test_arms_at_the_same_time_are_measured_as_one_after_the_other(config: Config, ray_cluster: str, tmp_path: Path) -> None:
    two = with_arms(config, {name: ARMS[name] for name in ("deepfm", "wild")})
    comparison = two.comparison.model_copy(update={"concurrent": 2, "seeds": [1]})
    together = compared(two.model_copy(update={"comparison": comparison}))
    (kept,) = (Path(Workspace(config.workspace).folder("compare")) / "runs").iterdir()
    kept.unlink()
    alone = comparison.model_copy(update={"concurrent": 1, "seeds": [1, 2]})
    expected = compared(two.model_copy(update={"comparison": alone}))
    for name in ("auc", "log_loss", "parameters"):
        assert together["deepfm", 1]["measured"][name] == pytest.approx(expected["deepfm", 1]["measured"][name], abs=1e-6)
    assert together["wild", 1]["reason"] == expected["wild", 1]["reason"]


def test_a_killed_comparison_continues_and_a_new_arm_is_trained_alone(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    def count_and_train(
        data: RankingData, ranker: Ranker, settings: Training, seed: int, *others: Any, **more: Any
    ) -> tuple[Scorer, list[Epoch]]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((ranker.model, seed))
        return train_ranker(data, ranker, settings, seed, *others, **more)

    two = with_arms(config, {name: ARMS[name] for name in ("deepfm", "fm")})
    monkeypatch.setattr("rayrec.stages.compare_clicks.train_ranker", count_and_train)
    with pytest.raises(KeyboardInterrupt):
        compared(two)
    done, trained[:] = list(trained), []
    pairs = compared(two)
    assert done + trained == [(model, seed) for model in ("deepfm", "fm") for seed in (1, 2)]

    trained.clear()
    more = compared(with_arms(config, {"renamed": ARMS["fm"], "deepfm": ARMS["deepfm"], "fmd": ARMS["fm without tags"]}))
    assert trained == [("fm", 1), ("fm", 2)]
    assert more["renamed", 1]["measured"] == pairs["fm", 1]["measured"]


def test_what_a_killed_comparison_measured_is_found_with_other_arms(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    def train_two(data: RankingData, ranker: Ranker, *others: Any, **more: Any) -> tuple[Scorer, list[Epoch]]:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((ranker.model, others[1]))
        return train_ranker(data, ranker, *others, **more)

    monkeypatch.setattr("rayrec.stages.compare_clicks.train_ranker", train_two)
    with pytest.raises(KeyboardInterrupt):
        compared(with_arms(config, {name: ARMS[name] for name in ("deepfm", "fm")}))
    trained.clear()
    changed = with_arms(config, {"deepfm": ARMS["deepfm"], "fm": ARMS["fm without tags"]})
    compared(changed)
    assert trained == [("fm", 1), ("fm", 2)]
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        run_stage(Workspace(config.workspace), COMPARE, changed, force=True)
    assert trained == [("deepfm", 1), ("deepfm", 2)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ranker.embeding_size": 8}, "unknown key 'ranker.embeding_size'; did you mean 'ranker.embedding_size'"),
        ({"ranker.model": "deepfn"}, "ranker.model: there is no model 'deepfn'; did you mean 'deepfm'"),
        ({"ranker.embedding_size": 0}, "ranker.embedding_size: must be 1 or more"),
        ({"topics.clusters": 5}, "topics.clusters can't differ"),
    ],
)
def test_an_arm_that_can_not_be_trained_is_refused_before_any_training(config: Config, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"comparison\.arms\.odd: {said}"):
        compared(with_arms(config, {"deepfm": ARMS["deepfm"], "odd": values}))


def test_goals_have_a_table_of_their_own(config: Config) -> None:
    """It has what the metrics of the ranker's values are, and an arm without goals is left out of it."""
    run_stage(Workspace(config.workspace), ingest(1500, labels=True), config, force=True)
    arms: dict[str, dict[str, Any]] = {
        "alone": {},
        "ple": {"ranker.goals": GOALS, "ranker.goal_network.kind": "ple"},
        "two": {"ranker.goals.click": "clicked"},
    }
    pairs = compared(with_arms(config, arms))
    assert pairs["alone", 1]["measured"]["goals"] == {}
    assert list(pairs["ple", 1]["measured"]["goals"]) == list(GOALS)
    assert list(pairs["two", 1]["measured"]["goals"]) == ["click"]
    ranker = variant(config, arms["ple"], "ple").ranker
    data = whole_log(Workspace(config.workspace), config.model_copy(update={"ranker": ranker}))
    scorer, _ = train_ranker(data, ranker, config.training, seed=2)
    assert isinstance(scorer.model, SeveralGoals)
    values = predict_goals(scorer.model, data.test, HistoryGather(data.clicks, LatestClicks(5), CPU), CPU)
    found = pairs["ple", 2]["measured"]
    assert data.test.goals is not None
    assert found["goals"]["like"]["auc"] == pytest.approx(roc_auc_score(data.test.goals[:, 1], values[:, 1]), abs=1e-6)
    assert found["goals"]["click"]["auc"] == found["auc"]
    assert found["goals"]["watch"]["xauc"] == pytest.approx(xauc(data.test.goals[:, 2], values[:, 2]), abs=1e-6)
    text = (Path(Workspace(config.workspace).folder("compare")) / "results.md").read_text()
    assert [line.split("|")[1:3] for line in text.splitlines() if line.startswith(("| click |", "| like |", "| watch |"))] == [
        [" click ", " ple "],
        [" click ", " two "],
        [" like ", " ple "],
        [" watch ", " ple "],
    ]
