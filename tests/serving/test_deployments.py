"""The Serve application without a cluster: what it is built from, and how requests are ranked together."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ray.serve import Application

from rayrec.config import Config, ConfigError, dump
from rayrec.ranking.batch import Batch
from rayrec.ranking.history import HistoryGather
from rayrec.ranking.model import NoOptions, RankingModel
from rayrec.ranking.scorer import Scorer
from rayrec.serving.bundle import load_scorer, locate
from rayrec.serving.deployments import NeuralRanker, app
from rayrec.training.data import ranking_data
from rayrec.training.loop import predict
from rayrec.workspace import Workspace


def test_the_application_is_built_from_a_path_or_the_content_of_a_config(published: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dump(published)))
    for args in ({"config": str(path)}, {"config": dump(published)}, {"workspace": published.workspace}):
        assert isinstance(app(args), Application)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="workspce"):
        app({"workspce": "/w"})
    with pytest.raises(ConfigError, match=r"unknown key 'recall.topcs'; did you mean 'topics'\?"):
        app({"config": {"recall": {"topcs": 3}}, "workspace": "/w"})
    with pytest.raises(ConfigError, match="give an absolute path or a URI"):
        app({"workspace": "relative"})


def test_requests_ranked_together_get_the_scores_that_they_get_alone(published: Config) -> None:
    workspace = Workspace(published.workspace)
    version, folder = locate(workspace, None)
    scorer = load_scorer(workspace.fs, folder)
    histories = [np.arange(1, 1 + n, dtype=np.int32) for n in (0, 3, 30)]
    times = [np.arange(n, dtype=np.int64) for n in (0, 3, 30)]
    candidates = [np.arange(1, 1 + n, dtype=np.int32) for n in (40, 1, 7)]

    ranker = NeuralRanker(published.workspace)
    ranker.reconfigure({"version": None})
    calls = [(version, f"u{n}", histories[n].tobytes(), times[n].tobytes(), 50, candidates[n].tobytes(), {}) for n in range(3)]
    for n, answer in enumerate(ranker.rank_together(calls)):
        scores = np.frombuffer(answer, np.float32)
        alone = scorer.score([f"u{n}"], [histories[n]], [times[n]], np.array([50]), candidates[n][None])[0]
        np.testing.assert_allclose(scores, alone, rtol=1e-5)


class Clock(RankingModel):
    """Scores by the age of each click and by the hour: what a model of sessions looks at."""

    def forward(self, batch: Batch) -> torch.Tensor:
        hours_BH = (batch.at[:, None] - batch.history_at) / 3.6e6 * (batch.history > 0)
        order_H = torch.arange(batch.history.shape[1]) + 1
        return (hours_BH / order_H).sum(1, keepdim=True) + batch.context / 10 + batch.candidates / 40 - 3


def test_what_evaluation_and_the_service_say_of_an_impression_is_the_same(published: Config) -> None:
    workspace = Workspace(published.workspace)
    version, _ = locate(workspace, None)
    settings = published.ranker.model_copy(update={"context_fields": ["hour"], "history_length": 6})
    data = ranking_data(workspace, settings, published.split)
    scorer = Scorer.untrained(settings, data)
    scorer.model = Clock(settings, NoOptions(), data.tables)
    test, clicks = data.test, data.clicks
    offline = predict(scorer.model, test, HistoryGather(clicks, settings.history_length, scorer.device), scorer.device)

    ranker = NeuralRanker(published.workspace)
    ranker.scorers[version] = scorer
    calls = []
    for user, item, at, end in zip(test.user.tolist(), test.item, test.at.tolist(), test.end, strict=True):
        known = slice(clicks.offsets[user], end)
        history, times = clicks.items[known].tobytes(), clicks.times[known].tobytes()
        calls.append((version, data.users.ids[user], history, times, at, np.int32(item).tobytes(), {}))
    served = [np.frombuffer(answer, np.float32)[0] for answer in ranker.rank_together(calls)]
    assert offline.std() > 0.1
    np.testing.assert_allclose(served, offline, atol=1e-5)
