"""Collaborative models and rankers are measured by one protocol, chosen on validation, and looked at once on the test split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayrec.collaborative.held_out import Splits
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.config import Collaborative, Config, ConfigError, load
from rayrec.data.shards import EncodedLog
from rayrec.evaluation.lists import measure
from rayrec.stages.compare import STAGE as COMPARE
from rayrec.stages.encode import context_fields
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.training.small_log import ingest

ARMS: dict[str, dict[str, Any]] = {
    "ease": {"collaborative.model": "ease", "collaborative.options": {}},
    "svd": {"collaborative.model": "pure_svd", "collaborative.options": {"factors": 4}},
    "fm": {"ranker.model": "fm"},
}
YAML = f"""
split: {{validation: 0.2, test: 0.2}}
ranker: {{embedding_size: 4, history_length: 5, item_fields: [tags]}}
training: {{epochs: 2, batch_size: 128, learning_rate: 0.01}}
comparison:
  measure: lists
  lists: {{k: [5, 10]}}
  seeds: [1, 2]
  arms: {json.dumps(ARMS)}
  choices: {{ease: {{collaborative.options.l2: [0.1, 20]}}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "small.yaml").write_text(f"workspace: {tmp_path / 'space'}\n{YAML}")
    config = load(tmp_path / "small.yaml")
    run_stage(Workspace(config.workspace), ingest(1500), config)
    return config


def with_comparison(config: Config, **changes: Any) -> Config:
    values = config.comparison.model_dump(mode="json") | changes
    return Config.model_validate(config.model_dump(mode="json") | {"comparison": values})


def compared(config: Config) -> tuple[dict[str, list[dict[str, Any]]], str]:
    workspace = Workspace(config.workspace)
    run_stage(workspace, COMPARE, config)
    folder = Path(workspace.folder("compare"))
    return json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()


def test_the_best_on_validation_is_measured_on_the_test_split(config: Config) -> None:
    results, text = compared(config)
    workspace = Workspace(config.workspace)
    splits = Splits.read(workspace, EncodedLog.open(workspace.fs, workspace.folder("encode")), "split")
    clicks, users = splits.feedback.likes.sum(axis=0), splits.feedback.users - 1
    on_validation = {}
    for l2 in (0.1, 20):
        model = build(Collaborative(model="ease", options={"l2": l2}))
        model.fit(splits.feedback, Fitting())
        likes = splits.feedback.likes
        on_validation[l2] = measure(model.scores, likes, splits.feedback.held_out, [5, 10]).metrics(clicks, users)["ndcg@5"]
        on_test = measure(model.scores, likes, splits.test, [5, 10]).metrics(clicks, users)
        if l2 == 20:
            expected = on_test
    assert [trial["measured"]["metrics"]["ndcg@5"] for trial in results["validation"]] == pytest.approx([*on_validation.values()])
    assert max(on_validation, key=lambda l2: on_validation[l2]) == 20
    (ease,) = (run for run in results["test"] if run["arm"] == "ease")
    assert ease["measured"]["metrics"] == pytest.approx(expected)
    assert "- ease: `options.l2=20`" in text
    assert [(run["arm"], run["seed"]) for run in results["test"]] == [
        ("popularity", 1),
        ("ease", 1),
        ("svd", 1),
        ("fm", 1),
        ("fm", 2),
    ]
    assert "| | Recall@5 | NDCG@5 | Recall@10 | NDCG@10 | MRR@5 | hit rate@5 | coverage@5 | novelty@5 | seeds | seconds |" in text


def test_an_arm_below_popularity_is_named(config: Config) -> None:
    _, text = compared(
        with_comparison(config, arms={"again": {"collaborative.model": "pop", "collaborative.options": {}}}, choices={})
    )
    assert "again does not beat popularity by Recall@5 (" in text


def test_the_seeds_of_a_ranker_differ(config: Config) -> None:
    results, _ = compared(with_comparison(config, arms={"fm": ARMS["fm"]}, choices={}))
    metrics = [run["measured"]["metrics"] for run in results["test"] if run["arm"] == "fm"]
    assert all(np.isfinite([*each.values()]).all() for each in metrics)
    assert metrics[0] != metrics[1]


def test_one_of_the_last_clicks_among_sampled_items(config: Config) -> None:
    lists = {"k": [3], "held_out": "last_click", "negatives": 20}
    arms = {"ease": ARMS["ease"], "gmf": {"ranker.model": "gmf", "training.negatives": 4, "training.epochs": 6}}
    results, text = compared(with_comparison(config, lists=lists, arms=arms, choices={}, seeds=[1]))
    assert "| | hit rate@3 | NDCG@3 | MRR@3 | seeds | seconds |" in text
    assert "Of each user's last click, ranked among 20 sampled items" in text
    (popular, ease, gmf) = (run["measured"]["metrics"]["hit@3"] for run in results["test"])
    assert ease > popular
    assert gmf > popular


def test_the_context_that_an_arm_may_choose_is_encoded(config: Config) -> None:
    choices = {"fm": {"ranker.context_fields": [[], ["hour"], ["weekday"]]}}
    assert context_fields(with_comparison(config, choices=choices)) == ["hour", "weekday"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"arms": {"odd": {"collaborative.model": "eas"}}, "choices": {}},
            r"arms\.odd: collaborative.model: there is no model 'eas'",
        ),
        ({"arms": {"odd": {"collaborative.options.l3": 1}}, "choices": {}}, r"arms\.odd: .*has no option 'l3'"),
        ({"choices": {"ese": {"a": [1]}}}, r"choices\.ese: there is no such arm"),
        ({"arms": {"odd": {"collaborative.model": "pop", "ranker.model": "fm"}}, "choices": {}}, r"ranker\.\* means nothing to"),
        ({"arms": {}}, r"comparison\.arms: there are none"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_any_fitting(config: Config, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compared(with_comparison(config, **changes))
