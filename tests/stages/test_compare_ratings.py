"""Models are chosen by the RMSE of the validation split, and measured on the test split with what they learn from both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.rating_log import HeldOut, read_ratings
from rayrec.collaborative.rating_model import RatingModel
from rayrec.config import Collaborative, Config, ConfigError, load
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.stages.compare import STAGE as COMPARE
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.collaborative.rated import rmse
from tests.training.small_log import catalog, interactions

ARMS: dict[str, dict[str, Any]] = {
    "bias": {"collaborative.model": "rating_bias", "collaborative.options": {}},
    "bayes": {
        "collaborative.model": "bpmf",
        "collaborative.options": {"size": 2, "components": 2, "epochs": 12, "burn_in": 4, "samples": 8},
    },
}
CHOICES = {"bias": {"collaborative.options.user_penalty": [2, 500]}}


def ingest(rows: int) -> Stage:
    """People of four kinds like videos of their own kind by two points more."""
    log = interactions(rows)
    user, video = (np.array([int(name[1:]) for name in log[column].to_pylist()]) for column in ("user_id", "video_id"))
    noise = np.random.default_rng(1).normal(size=rows)
    ratings = np.clip(np.rint(2.5 + 2.0 * (user % 4 == video % 4) + (user % 3) * 0.5 + 0.5 * noise), 1, 5)

    def write(run: StageRun) -> None:
        run.write("catalog", catalog())
        run.write("interactions", log.append_column("rating", pa.array(ratings, pa.float32())))
        run.count(rows, rows)

    return Stage("ingest", write, writes=("catalog", "interactions"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    comparison = {"measure": "ratings", "seeds": [1, 2], "arms": ARMS, "choices": CHOICES}
    (tmp_path / "small.yaml").write_text(f"workspace: {tmp_path / 'space'}\ncomparison: {json.dumps(comparison)}\n")
    config = load(tmp_path / "small.yaml")
    run_stage(Workspace(config.workspace), ingest(1500), config)
    return config


def bias_rmse(config: Config, held_out: HeldOut, penalty: float) -> float:
    workspace = Workspace(config.workspace)
    encoded = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    data = read_ratings(
        workspace, LogPieces.of(workspace.fs, workspace.part_digests("interactions")), encoded, config.split, held_out
    )
    model = build(Collaborative(model="rating_bias", options={"user_penalty": penalty}))
    assert isinstance(model, RatingModel)
    model.fit(Feedback.of_ratings(data), Fitting())
    return rmse(model.predict(data.held_out.user, data.held_out.item), data.held_out)


def test_the_best_on_validation_is_measured_on_the_test_split(config: Config) -> None:
    workspace = Workspace(config.workspace)
    run_stage(workspace, COMPARE, config)
    folder = Path(workspace.folder("compare"))
    results, text = json.loads((folder / "results.json").read_text()), (folder / "results.md").read_text()
    on_validation = [bias_rmse(config, "validation", penalty) for penalty in (2, 500)]
    assert [trial["measured"]["metrics"]["rmse"] for trial in results["validation"]] == pytest.approx(on_validation, rel=1e-4)
    assert on_validation[0] < on_validation[1]
    measured = {(run["arm"], run["seed"]): run["measured"]["metrics"]["rmse"] for run in results["test"]}
    assert list(measured) == [("rating_bias", 1), ("bias", 1), ("bayes", 1), ("bayes", 2)]
    assert measured["bias", 1] == pytest.approx(bias_rmse(config, "test", 2), rel=1e-4)
    assert measured["bayes", 1] != measured["bayes", 2]
    assert measured["bayes", 1] < 0.9 * measured["bias", 1]
    assert "- bias: `options.user_penalty=2`" in text
    assert "| | RMSE | MAE | seeds | seconds |" in text
    assert text.count("Chosen on validation") == 1
    assert "RMSE by how many ratings training has of the users:\n\n| | 6-20 | 21-50 | seeds" in text


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"collaborative.model": "pop"}, r"arms\.odd: 'pop' predicts no ratings"),
        ({"ranker.model": "fm"}, r"arms\.odd: ranker.model means nothing to a model of ratings"),
        ({"collaborative.model": "bpmff"}, r"arms\.odd: collaborative.model: there is no model 'bpmff'; did you mean 'bpmf'"),
    ],
)
def test_an_arm_that_predicts_no_ratings_is_refused(config: Config, arm: dict[str, Any], said: str) -> None:
    comparison = config.comparison.model_dump(mode="json") | {"arms": {"odd": arm}, "choices": {}}
    with pytest.raises(ConfigError, match=said):
        run_stage(
            Workspace(config.workspace), COMPARE, Config.model_validate(config.model_dump(mode="json") | {"comparison": comparison})
        )
