"""The Serve application without a cluster: what it is built from, and how requests are ranked together."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from ray.serve import Application

from rayrec.config import Config, ConfigError, dump
from rayrec.serving.bundle import load_scorer, locate
from rayrec.serving.deployments import NeuralRanker, app
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
    candidates = [np.arange(1, 1 + n, dtype=np.int32) for n in (40, 1, 7)]

    ranker = NeuralRanker(published.workspace)
    ranker.reconfigure({"version": None})
    calls = [(version, f"u{n}", histories[n].tobytes(), 5, candidates[n].tobytes()) for n in range(3)]
    for n, answer in enumerate(ranker.rank_together(calls)):
        scores = np.frombuffer(answer, np.float32)
        alone = scorer.score([f"u{n}"], [histories[n]], np.array([5]), candidates[n][None])[0]
        np.testing.assert_allclose(scores, alone, rtol=1e-5)
