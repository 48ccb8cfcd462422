"""The Serve application: `TopicRecall`, the HTTP ingress, `NeuralRanker`, `VideoSearch` and `VideoIntake`, which it asks.

`app` builds it, for `serve deploy` (`import_path: rayrec.serving.cluster.deployments:app`) as well as for `rayrec serve`.

The deployments' `user_config`, a `Rollout`, says which bundles are in use. When it changes, a running replica of `TopicRecall`
loads the new bundle beside the one in use, has every ranker load it, tries it out, and switches. Serve ends a replica whose
`reconfigure` raises, and sends no requests to a replica while `reconfigure` runs. Therefore the `reconfigure` of a running replica
only notes what is wanted. A bundle that can't be loaded is refused: the replica keeps what it has and says so in its `report`.

`VideoSearch` is there if the config has the section `search`. It has no `user_config`: `TopicRecall` tells it which bundles are in
use. `VideoIntake` describes new videos; it is there if the config has a section `serving.uploads`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ray import serve

from rayrec.config import Config, ConfigError, Uploads, load, with_values
from rayrec.config.wording import wording
from rayrec.recall import sources
from rayrec.serving.cluster.ranker import NeuralRanker
from rayrec.serving.cluster.recall import TopicRecall
from rayrec.serving.cluster.search import VideoSearch
from rayrec.serving.rank_calls import CALLS, MAX_BATCH
from rayrec.serving.rollout.arms import Rollout
from rayrec.serving.state.opening import check_installed, is_redis

MAX_SEARCHES = 32  # that wait for a replica that searches
MAX_CALLS = 4 * CALLS  # that a ranker has at a time, from several replicas that answer
MAX_QUEUED = 64  # requests that wait for a ranker; beyond that, callers are told to come back later


class Arguments(BaseModel):
    """The `args` of the application in a Serve config."""

    model_config = ConfigDict(extra="forbid")

    config: str | dict[str, Any] | None = None  # the path of a config file, or its content
    workspace: str | None = None  # replaces the config's workspace; an absolute path or a URI


def app(args: dict[str, Any]) -> serve.Application:
    """Raises `ConfigError` if the arguments or the config are wrong."""
    config = _config_of(args)
    alike: dict[str, Any] = {
        "health_check_period_s": 2,  # a dead replica is noticed and replaced after so long
        "max_surge_percent": 100,  # a replica that must restart for a new config is kept until the new replica runs
        "logging_config": {"enable_access_log": False},  # TopicRecall logs each request itself; one log of a process is enough
    }
    common = alike | {"user_config": Rollout().model_dump()}
    ranker = serve.deployment(
        NeuralRanker,
        **_ranker_scale(config),
        max_ongoing_requests=MAX_CALLS,
        max_queued_requests=MAX_QUEUED // MAX_BATCH,  # calls, which are full where so many wait
        ray_actor_options={"num_cpus": 1, "num_gpus": config.serving.gpus_per_ranker},
        **common,
    )
    recall = serve.deployment(
        serve.ingress()(TopicRecall),
        name="TopicRecall",
        num_replicas=config.serving.recall_replicas,
        max_ongoing_requests=2 * MAX_QUEUED,
        ray_actor_options={"num_cpus": 0.5} | _recall_placement(config),
        **common,
    )
    search = intake = None
    if config.search is not None:
        search = serve.deployment(
            VideoSearch,
            num_replicas=config.search.replicas,
            max_ongoing_requests=MAX_SEARCHES,
            max_queued_requests=MAX_SEARCHES,
            # It works only while somebody searches, and reads the store of added videos.
            ray_actor_options={"num_cpus": 0.25} | (_recall_placement(config) if config.serving.uploads else {}),
            **alike,
        ).bind(config)
    if config.serving.uploads is not None:
        from rayrec.serving.cluster.intake import VideoIntake  # imports torch

        intake = serve.deployment(
            VideoIntake,
            num_replicas=1,
            max_ongoing_requests=2,  # one video that is decoded, and another one that goes through the networks
            max_queued_requests=config.serving.uploads.max_at_once,
            ray_actor_options={"num_cpus": 0.5} | _recall_placement(config),
            **common,
        ).bind(config)
    return recall.bind(config, ranker.bind(config.workspace, _sharing(config)), search, intake)


def _config_of(args: dict[str, Any]) -> Config:
    """The config that the arguments name, with their workspace."""
    try:
        arguments = Arguments.model_validate(args)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {wording(each)}" for each in error.errors())
        known = ", ".join(Arguments.model_fields)
        raise ConfigError(f"the args of the Serve application are wrong: {problems} (known: {known})") from error
    if isinstance(arguments.config, dict):
        config = with_values(load(None), arguments.config, "the config of the Serve application")
    else:
        config = load(arguments.config)
    config = config.model_copy(update={"workspace": arguments.workspace or config.workspace})
    if "://" not in config.workspace and not config.workspace.startswith("/"):
        raise ConfigError(f"workspace {config.workspace!r}: give an absolute path or a URI, as replicas start in other folders")
    for key, folder in folders_of(config.serving.uploads):
        if "://" not in folder and not folder.startswith("/"):
            raise ConfigError(f"{key}={folder!r}: give an absolute path or a URI, as replicas start in other folders")
    sources.check(config)
    check_installed(config)
    return config


def folders_of(uploads: Uploads | None) -> list[tuple[str, str]]:
    """The folders of the section `serving.uploads`, each with its key."""
    if uploads is None:
        return []
    given = [("folder", uploads.folder), ("watch_folder", uploads.watch_folder)]
    given += [("media_roots", root) for root in uploads.media_roots]
    return [(f"serving.uploads.{key}", folder) for key, folder in given if folder is not None]


def _ranker_scale(config: Config) -> dict[str, Any]:
    """A fixed number of rankers, or as many as keep each of them busy with one call, while another one waits.

    A new ranker takes 5 to 10 s to start, and load comes in waves. Therefore a ranker is added when the load of the last 15 s asks
    for it, and removed when it has not been needed for two minutes.
    """
    min_replicas, max_replicas = config.serving.ranker_replicas, config.serving.max_ranker_replicas
    if max_replicas is None or max_replicas == min_replicas:
        return {"num_replicas": min_replicas}
    scaling = {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "target_ongoing_requests": CALLS,
        "look_back_period_s": 15,
        "upscale_delay_s": 5,
        "downscale_delay_s": 120,
    }
    return {"autoscaling_config": scaling}


def _sharing(config: Config) -> int:
    """How many rankers may have the memory of one device: those that divide a GPU, or all, which may be on one machine."""
    serving = config.serving
    rankers = serving.max_ranker_replicas or serving.ranker_replicas
    return min(rankers, max(1, int(1 / serving.gpus_per_ranker))) if serving.gpus_per_ranker else rankers


def _recall_placement(config: Config) -> dict[str, Any]:
    """Where TopicRecall may run: on the head, where the SQLite file is, or on any node if Redis keeps the events."""
    return {} if is_redis(config) else {"resources": {"node:__internal_head__": 0.001}}
