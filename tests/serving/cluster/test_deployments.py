"""The Serve application without a cluster: what it is built from."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve import Application
from ray.serve._private.build_app import build_app

from rayrec.config import Config, ConfigError, dump
from rayrec.serving.cluster.deployments import app


def test_the_application_is_built_from_a_path_or_the_content_of_a_config(published: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dump(published)))
    for args in ({"config": str(path)}, {"config": dump(published)}, {"workspace": published.workspace}):
        assert isinstance(app(args), Application)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"workspce: .* \(known: config, workspace\)"):
        app({"workspce": "/w"})
    with pytest.raises(ConfigError, match=r"unknown key 'recall.topcs'; did you mean 'recall.topics'\?"):
        app({"config": {"recall": {"topcs": 3}}, "workspace": "/w"})
    with pytest.raises(ConfigError, match=r"there is no source 'topic'; did you mean 'topics'\?"):
        app({"config": {"recall": {"sources": {"topic": 1}}}, "workspace": "/w"})
    with pytest.raises(ConfigError, match="give an absolute path or a URI"):
        app({"workspace": "relative"})


def built(config: Config, **serving: object) -> dict[str, Any]:
    """The settings of each deployment of the application."""
    settings = dump(config)
    settings["serving"] |= serving
    found = build_app(app({"config": settings}), name="rayrec").deployments
    return {deployment.name: deployment._deployment_config for deployment in found}


def test_a_request_is_logged_once(published: Config) -> None:
    """By our own log. Serve's access log would be a second one, and its files have no process id, so that nothing removes them."""
    for settings in built(published).values():
        assert settings.logging_config["enable_access_log"] is False


def test_rankers_follow_the_load_between_the_two_numbers(published: Config) -> None:
    assert built(published)["NeuralRanker"].autoscaling_config is None
    scaling = built(published, max_ranker_replicas=3)["NeuralRanker"].autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 3, 2)
    assert built(published, ranker_replicas=2, max_ranker_replicas=2)["NeuralRanker"].num_replicas == 2


@pytest.mark.parametrize(
    ("serving", "sharing"),
    [
        ({"ranker_replicas": 2}, 2),
        ({"ranker_replicas": 1, "max_ranker_replicas": 3}, 3),
        ({"ranker_replicas": 4, "gpus_per_ranker": 0.5}, 2),
        ({"ranker_replicas": 4, "gpus_per_ranker": 1}, 1),
    ],
)
def test_a_ranker_knows_how_many_share_its_memory(published: Config, serving: dict[str, Any], sharing: int) -> None:
    settings = dump(published)
    settings["serving"] |= serving
    (ranker,) = (one for one in build_app(app({"config": settings}), name="r").deployments if one.name == "NeuralRanker")
    assert ranker.init_args == (published.workspace, sharing)


@pytest.mark.parametrize(("state", "resources"), [(None, ["node:__internal_head__"]), ("redis://db:6379/0", [])])
def test_recall_stays_where_its_events_are(published: Config, state: str | None, resources: list[str]) -> None:
    settings = dump(published)
    settings["serving"]["state"] = state
    (recall,) = (one for one in build_app(app({"config": settings}), name="r").deployments if one.name == "TopicRecall")
    assert list(recall.ray_actor_options.get("resources", {})) == resources
