"""The Serve graph: `TopicRecall`, the HTTP ingress, and `NeuralRanker`, which it asks for scores.

`app` builds it, for `serve deploy` (`import_path: rayrec.serving.deployments:app`) as for `serve.run`. Which bundle is in use is
the deployments' `user_config`, {"version": ...}: when it changes, running replicas load the other bundle beside the one in use and
switch. Without a version they take the workspace's current one. A request carries the version that it was made with, so it is
always ranked by the bundle that its candidates came from, whichever replica switches first.
"""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from rayrec.config import Config, ConfigError, load
from rayrec.serving import guard
from rayrec.serving.api import create_api
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.recommendation import OverloadedError, Rank, Recommender, UserState, now_ms
from rayrec.serving.store import SqliteStore, state_path
from rayrec.workspace import Workspace

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

MOST_BATCH = 8  # requests ranked in one forward
MOST_WAITING = 64  # requests that wait for the ranker before callers are told to come back later
RANK_TIMEOUT_S = 5.0

# Bundle version, user_id, history int32 and its times int64 (UTC ms), time in UTC ms, candidates int32, context.
Call = tuple[str, str, bytes, bytes, int, bytes, dict[str, Any]]

log = logging.getLogger(__name__)


class Arguments(BaseModel):
    """The `args` of the application in a Serve config."""

    model_config = ConfigDict(extra="forbid")

    config: str | dict[str, Any] | None = None  # a config file's path, or its content
    workspace: str | None = None  # instead of the config's own; an absolute path or a URI


def app(args: dict[str, Any]) -> serve.Application:
    """Raises `ConfigError` when the config is wrong or no bundle can be found."""
    arguments = Arguments.model_validate(args)
    if isinstance(arguments.config, dict):
        config = load(None, [f"{section}={json.dumps(value)}" for section, value in arguments.config.items()])
    else:
        config = load(arguments.config)
    config = config.model_copy(update={"workspace": arguments.workspace or config.workspace})
    if "://" not in config.workspace and not config.workspace.startswith("/"):
        raise ConfigError(f"workspace {config.workspace!r}: give an absolute path or a URI, as replicas start in other folders")
    serving, latest = config.serving, {"version": None}
    ranker = serve.deployment(
        NeuralRanker,
        num_replicas=serving.ranker_replicas,
        # As many as a batch being ranked and the next one waiting, so that batches fill.
        max_ongoing_requests=2 * MOST_BATCH,
        max_queued_requests=MOST_WAITING,
        ray_actor_options={"num_cpus": 1, "num_gpus": serving.gpus_per_ranker},
        user_config=latest,
    )
    recall = serve.deployment(
        serve.ingress()(TopicRecall),
        name="TopicRecall",
        num_replicas=serving.recall_replicas,
        max_ongoing_requests=2 * MOST_WAITING,
        ray_actor_options={"num_cpus": 0.5},
        user_config=latest,
    )
    return recall.bind(config, ranker.bind(config.workspace))


class NeuralRanker:
    """Scores candidates, several requests in one forward. It keeps the scorers of the last two bundles."""

    def __init__(self, workspace: str) -> None:
        bind_to_node_address()
        self.workspace = Workspace(workspace)
        self.scorers: dict[str, Scorer] = {}

    def reconfigure(self, user_config: dict[str, str | None]) -> None:
        version, _ = locate(self.workspace, user_config.get("version"))
        self.scorer(version)

    @serve.batch(max_batch_size=MOST_BATCH, batch_wait_timeout_s=0)
    async def rank(self, calls: list[Call]) -> list[bytes]:
        return self.rank_together(calls)

    def rank_together(self, calls: list[Call]) -> list[bytes]:
        """The click probabilities, float32, of each call's candidates; one forward for each bundle that calls come from."""
        answers: list[bytes] = [b""] * len(calls)
        for version in {call[0] for call in calls}:
            rows = [row for row, call in enumerate(calls) if call[0] == version]
            _, users, histories, times, at, wanted, contexts = zip(*(calls[row] for row in rows), strict=True)
            candidates = [np.frombuffer(items, np.int32) for items in wanted]
            padded = np.zeros((len(rows), max(map(len, candidates))), np.int32)
            for line, items in zip(padded, candidates, strict=True):
                line[: len(items)] = items
            scores = self.scorer(version).score(
                list(users),
                [np.frombuffer(history, np.int32) for history in histories],
                [np.frombuffer(moments, np.int64) for moments in times],
                np.array(at),
                padded,
                list(contexts),
            )
            for row, line, items in zip(rows, scores, candidates, strict=True):
                answers[row] = line[: len(items)].tobytes()
        return answers

    def scorer(self, version: str) -> "Scorer":
        """The `Scorer` of a bundle, loaded when it is not there yet."""
        if version not in self.scorers:
            import torch

            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            _, folder = locate(self.workspace, version)
            scorer = load_scorer(self.workspace.fs, folder).to(device)
            self.scorers = dict([*self.scorers.items(), (version, scorer)][-2:])
            log.info("bundle %s: the ranker is loaded on %s", version, device)
        return self.scorers[version]


class TopicRecall:
    """The HTTP ingress: walks a request's steps and asks the ranker for scores."""

    def __init__(self, config: Config, ranker: DeploymentHandle) -> None:
        bind_to_node_address()
        self.config, self.ranker, self.keys = config, ranker, guard.api_keys()
        guard.check_exposure(config.serving.host, self.keys)
        guard.check_exposure(ray.util.get_node_ip_address(), self.keys)
        self.workspace = Workspace(config.workspace)
        self.store = SqliteStore(state_path(config))
        self.recommender: Recommender | None = None
        self._refreshing: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(lambda: self.recommender, self.keys, self.config.serving.most_k)

    async def reconfigure(self, user_config: dict[str, str | None]) -> None:
        version, folder = locate(self.workspace, user_config.get("version"))
        if self.recommender is None or self.recommender.bundle.version != version:
            self.recommender = await asyncio.to_thread(self._load, version, folder)
            log.info("bundle %s: recall is loaded", version)
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())

    def _load(self, version: str, folder: str) -> Recommender:
        bundle = Bundle.load(self.workspace.fs, folder, version)
        return Recommender(bundle, self.store, self._rank_with(version), self.config.recall, self.config.seed)

    def _rank_with(self, version: str) -> Rank:
        async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
            clicks = user.clicked.astype(np.int32).tobytes(), user.clicked_at.astype(np.int64).tobytes()
            call: Call = (version, user_id, *clicks, at, candidates.astype(np.int32).tobytes(), context)
            try:
                scores = await asyncio.wait_for(self.ranker.rank.remote(call), RANK_TIMEOUT_S)
            except (BackPressureError, RayServeException, RayActorError, TimeoutError) as error:
                raise OverloadedError(f"the ranker did not answer: {error!r}") from error
            return np.frombuffer(scores, np.float32)

        return rank

    async def _refresh(self) -> None:
        """Keep the queues up to date with the events, for ever."""
        while True:
            await asyncio.sleep(self.config.serving.refresh_s)
            if self.recommender is None:
                continue
            try:
                await asyncio.to_thread(self.recommender.refresh, now_ms())
            except Exception:
                log.exception("the queues could not be refreshed; trying again")


def bind_to_node_address() -> None:
    """Make this replica's inter-deployment gRPC server, which takes pickles, listen on the node's own address alone.

    Ray binds it to every interface, also on a node whose address is the loopback. Must run before the replica has been initialised.
    """
    from ray.serve._private import replica

    node = ray.util.get_node_ip_address()
    host, plain = f"[{node}]" if ":" in node else node, replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: plain(server, address.replace("[::]", host))
