"""The stage `collaborative` leaves a model that loads, and what recall needs of it, which a slow loop confirms."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rayrec.collaborative import saving
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.rating_model import RatingModel
from rayrec.config import Config, ConfigError, load, with_values
from rayrec.data.shards import EncodedLog
from rayrec.stages.pipeline import load_stage, run_stages, stages_for
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.stages.test_compare_ratings import ingest as rated_log
from tests.training.small_log import VIDEOS, ingest


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = load(None, [f"workspace={tmp_path}", "collaborative={model: ease, options: {l2: 5}, neighbours: 7}"])
    run_stage(Workspace(config.workspace), ingest(1500), config)
    return config


def fitted(config: Config) -> Path:
    run_stages([load_stage("collaborative")], config)
    return Path(Workspace(config.workspace).folder("collaborative"))


def test_each_item_has_those_that_go_best_with_it(config: Config) -> None:
    folder = fitted(config)
    workspace = Workspace(config.workspace)
    settings, model = saving.load(workspace.fs, f"{folder}/model")
    assert settings == config.collaborative
    table = workspace.read("collaborative_items")
    assert table["video_id"].to_pylist() == workspace.read("catalog")["video_id"].to_pylist()
    assert table["clicked"].null_count == VIDEOS
    rows = zip(table["neighbours"].to_pylist(), table["weights"].to_pylist(), strict=True)
    for item, (neighbours, weights) in enumerate(rows, start=1):
        scores = model.similar(np.array([item]))[0]
        others = sorted((other for other in range(1, VIDEOS + 1) if other != item), key=lambda other: -scores[other])
        expected = [other for other in others if scores[other] > 0][:7]
        assert neighbours[: len(expected)] == expected
        assert weights[: len(expected)] == pytest.approx([scores[other] for other in expected])
        assert set(neighbours[len(expected) :]) | set(weights[len(expected) :]) <= {0}
    # In nine of ten cases, people of the small log click videos of one kind each, and a video's kind is its index modulo 4.
    first = np.array(table["neighbours"].to_pylist())[:, 0]
    assert np.mean(first % 4 == np.arange(1, VIDEOS + 1) % 4) > 0.7


def test_the_model_has_learned_from_the_training_split_alone(config: Config) -> None:
    folder = fitted(config)
    workspace = Workspace(config.workspace)
    feedback = Feedback.of(EncodedLog.open(workspace.fs, workspace.folder("encode")))
    likes = feedback.likes.toarray().astype(np.float64)
    inverse = np.linalg.inv(likes.T @ likes + 5 * np.eye(VIDEOS + 1))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(load_file(folder / "model" / "arrays.safetensors")["weights"], weights, atol=1e-5)


def test_a_model_with_vectors_leaves_them(config: Config) -> None:
    settings = {"model": "pure_svd", "options": {"factors": 6}}
    changed = Config.model_validate(config.model_dump(mode="json") | {"collaborative": settings})
    folder = fitted(changed)
    workspace = Workspace(config.workspace)
    _, model = saving.load(workspace.fs, f"{folder}/model")
    table = workspace.read("collaborative_items")
    clicked, candidate = (np.array(table[name].to_pylist()) for name in ("clicked", "candidate"))
    assert clicked.shape == candidate.shape == (VIDEOS, 6)
    np.testing.assert_allclose(clicked @ candidate.T, model.similar(np.arange(1, VIDEOS + 1))[:, 1:], atol=1e-5)


def test_who_is_known_was_clicked_in_training(config: Config) -> None:
    fitted(config)
    workspace = Workspace(config.workspace)
    feedback = Feedback.of(EncodedLog.open(workspace.fs, workspace.folder("encode")))
    known = workspace.read("collaborative_items")["known"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(known, feedback.likes.toarray()[:, 1:].any(axis=0))


def test_a_model_of_ratings_learns_from_those_of_the_training_split(tmp_path: Path) -> None:
    options = "{size: 2, components: 2, epochs: 12, burn_in: 4, samples: 8}"
    config = load(None, [f"workspace={tmp_path}", f"collaborative={{model: bpmf, options: {options}}}"])
    workspace = Workspace(config.workspace)
    run_stage(workspace, rated_log(1500), config)
    _, model = saving.load(workspace.fs, f"{fitted(config)}/model")
    assert isinstance(model, RatingModel)
    log = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    users, items = log.users.ids.to_pylist(), log.items.ids.to_pylist()
    own = np.array([[int(user[1:]) % 4 == int(item[1:]) % 4 for item in items] for user in users])
    scores = model.scores(np.arange(1, len(users) + 1), Feedback.of(log).likes[1:])[:, 1:]
    assert scores[own].mean() > scores[~own].mean() + 0.5  # people rate what is of their own kind two points higher
    assert workspace.read("collaborative_items").num_rows == VIDEOS


def test_the_stage_runs_only_where_the_config_asks_for_it(config: Config) -> None:
    assert "collaborative" in [stage.name for stage in stages_for(config)]
    without = config.model_copy(update={"collaborative": None})
    assert "collaborative" not in [stage.name for stage in stages_for(without)]
    with pytest.raises(ConfigError, match=r"recall.sources.user_vector: the model 'ease' has no vectors; choose a"):
        load_stage("collaborative").check(with_values(config, {"recall.sources": {"user_vector": 1}}))
    with pytest.raises(ConfigError, match=r"there is no model 'eas'; did you mean 'ease'"):
        fitted(Config.model_validate(config.model_dump(mode="json") | {"collaborative": {"model": "eas"}}))
