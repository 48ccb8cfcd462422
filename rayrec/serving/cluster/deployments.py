"""The Serve graph: `TopicRecall`, the HTTP ingress, and `NeuralRanker`, which it asks for scores.

`app` builds it, for `serve deploy` (`import_path: rayrec.serving.cluster.deployments:app`) as for `serve.run`. Which bundles are
in use is the deployments' `user_config`, a `Rollout`: when it changes, a running replica of `TopicRecall` loads the new bundle
beside the one in use, has every ranker load it, warms both up, and switches. Serve ends a replica whose `reconfigure` raises, and
routes nothing to a replica while it runs; so a running replica's `reconfigure` only takes note. A bundle that can't be loaded is
refused: the replica goes on with what it has and says so in its `report`.

A request carries the version of the bundle that it was made with, so it is always ranked by the bundle that its candidates came
from, whichever replica switches first.
"""

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import ray
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from rayrec.config import Config, ConfigError, load
from rayrec.errors import RayrecError
from rayrec.recall import sources
from rayrec.serving.bundle import Bundle, BundleError, load_scorer, locate
from rayrec.serving.cluster.metrics import RayMetrics
from rayrec.serving.http import auth
from rayrec.serving.http.app import create_api
from rayrec.serving.http.request_log import log_as_json
from rayrec.serving.recommender import OverloadedError, Rank, Recommender, UserState, now_ms
from rayrec.serving.rollout.arms import Arms, RankerReport, Report, Rollout
from rayrec.serving.rollout.swaps import swap_history
from rayrec.serving.rollout.versions import MAX_BATCH, VersionCache, first_that_loads, try_out, warm_up
from rayrec.serving.state.store import is_redis, open_store
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

MAX_WAITING = 64  # requests that wait for the ranker before callers are told to come back later
LINGER_S = 60.0  # how long a ranker keeps a bundle that is not wanted any more, for requests that were made with it
LOAD_TIMEOUT_S = 240.0  # for the rankers to load a bundle
PRUNE_EVERY_S = 3600.0
HOUR_MS = 3600 * 1000

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
    sources.check(config.recall)
    everywhere: dict[str, Any] = {
        "user_config": Rollout().model_dump(),
        "health_check_period_s": 2,  # how soon a dead replica is noticed and replaced
        "max_surge_percent": 100,  # a replica that must be restarted for another config goes when the new one is there
    }
    ranker = serve.deployment(
        NeuralRanker,
        **_ranker_scale(config),
        # As many as a batch being ranked and the next one waiting, so that batches fill.
        max_ongoing_requests=2 * MAX_BATCH,
        max_queued_requests=MAX_WAITING,
        ray_actor_options={"num_cpus": 1, "num_gpus": config.serving.gpus_per_ranker},
        **everywhere,
    )
    recall = serve.deployment(
        serve.ingress()(TopicRecall),
        name="TopicRecall",
        num_replicas=config.serving.recall_replicas,
        max_ongoing_requests=2 * MAX_WAITING,
        ray_actor_options={"num_cpus": 0.5} | _place_of_events(config),
        **everywhere,
    )
    return recall.bind(config, ranker.bind(config.workspace))


def _ranker_scale(config: Config) -> dict[str, Any]:
    """A fixed number of rankers, or as many as keep each busy with one full batch.

    A new one takes 5 to 10 s to start and load comes in waves: one comes when the last 15 s ask for it, and goes when it has not
    been needed for two minutes.
    """
    least, most = config.serving.ranker_replicas, config.serving.max_ranker_replicas
    if most is None or most == least:
        return {"num_replicas": least}
    scaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": MAX_BATCH,
        "look_back_period_s": 15,
        "upscale_delay_s": 5,
        "downscale_delay_s": 120,
    }
    return {"autoscaling_config": scaling}


def _place_of_events(config: Config) -> dict[str, Any]:
    """Where TopicRecall may run: on the head, where the SQLite file is, or anywhere when Redis keeps the events."""
    return {} if is_redis(config) else {"resources": {"node:__internal_head__": 0.001}}


class NeuralRanker:
    """Scores candidates, several requests in one forward."""

    def __init__(self, workspace: str) -> None:
        bind_to_node_address()
        log_as_json()
        self.workspace = Workspace(workspace)
        self.scorers = VersionCache(self._load)
        self.wanted: set[str] = set()
        self._dropping: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new replica is ready when it has loaded what is wanted; a running one loads it beside its work.

        It doesn't raise: which bundles are served is TopicRecall's to decide, and what it serves is loaded when it asks.
        """
        loading = asyncio.create_task(self._load_wanted(user_config))
        if self._dropping is None:
            await loading
            self._dropping = asyncio.create_task(self._drop())
        self._loading = loading  # the event loop itself keeps only weak references

    async def _load_wanted(self, user_config: dict[str, Any]) -> None:
        try:
            wanted = [version for version, _ in _located(self.workspace, Rollout.model_validate(user_config))]
            self.wanted = set(wanted)
            for version in wanted:
                await asyncio.to_thread(self.scorers.get, version)
        except Exception:
            log.exception("the ranker can't load what is wanted: %s", user_config)

    async def prepare(self, version: str) -> int:
        """Have a bundle's ranker loaded and warm; returns its number of items. Raises `BundleError` when it is broken."""
        return len((await asyncio.to_thread(self.scorers.get, version)).item_ids)

    async def rank(self, call: Call) -> bytes:
        """The click probabilities, float32, of a call's candidates."""
        if call[0] not in self.scorers:  # by a replica that came in the middle of a swap
            await asyncio.to_thread(self.scorers.get, call[0])
        return await self._rank_with_others(call)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def _rank_with_others(self, calls: list[Call]) -> list[bytes]:
        return self.rank_together(calls)

    def rank_together(self, calls: list[Call]) -> list[bytes]:
        """The answer to each call; one forward for each bundle that calls come from."""
        answers: list[bytes] = [b""] * len(calls)
        for version in {call[0] for call in calls}:
            rows = [row for row, call in enumerate(calls) if call[0] == version]
            _, users, histories, times, at, wanted, contexts = zip(*(calls[row] for row in rows), strict=True)
            candidates = [np.frombuffer(items, np.int32) for items in wanted]
            padded = np.zeros((len(rows), max(map(len, candidates))), np.int32)
            for line, items in zip(padded, candidates, strict=True):
                line[: len(items)] = items
            scores = self.scorers.get(version).score(
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

    def report(self) -> RankerReport:
        return RankerReport(_replica_id(), ray.util.get_node_ip_address(), self.scorers.versions())

    def _load(self, version: str) -> "Scorer":
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _, folder = locate(self.workspace, version)
        scorer = load_scorer(self.workspace.fs, folder).to(device)
        warm_up(scorer, folder)
        log.info("bundle %s: the ranker is loaded on %s", version, device)
        return scorer

    async def _drop(self) -> None:
        while True:
            await asyncio.sleep(LINGER_S / 2)
            self.scorers.drop(self.wanted, LINGER_S)


class TopicRecall:
    """The HTTP ingress: walks a request's steps and asks the ranker for scores."""

    def __init__(self, config: Config, ranker: DeploymentHandle) -> None:
        bind_to_node_address()
        log_as_json()
        self.config, self.ranker, self.keys = config, ranker, auth.Keys.of()
        auth.check_exposure(config.serving.host, self.keys)
        auth.check_exposure(ray.util.get_node_ip_address(), self.keys)
        self.workspace, self.store, self.metrics = Workspace(config.workspace), open_store(config), RayMetrics()
        self.arms: Arms | None = None
        self.rollout, self.refused, self.refusals = Rollout(), "", 0
        self.settled: Rollout | None = None  # the last rollout that was carried out or refused
        self._switching, self._tasks = asyncio.Lock(), set[asyncio.Task[None]]()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(lambda: self.arms, self.config.serving, self.keys, self.metrics, lambda: swap_history(self.workspace))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new replica loads what is wanted; raises when neither that nor another published bundle can be loaded."""
        self.rollout = Rollout.model_validate(user_config)
        if self.arms is not None:
            self._spawn(self._switch(self.rollout))
            return
        try:
            self._use(await self._arms_of(self.rollout))
            self.settled = self.rollout
        except Exception as problem:
            self._refuse(self.rollout, problem)
            published = [manifest.version for manifest in reversed(self.workspace.versions("publish"))]
            self._use(await first_that_loads(published, lambda version: self._arms_of(Rollout(version=version))))
        self._spawn(self._refresh())
        self._spawn(self._prune())

    async def report(self) -> Report:
        """What this replica serves, for `rayrec swap` and `rayrec serve --status`."""
        arms = self.arms
        assert arms is not None  # a replica is asked once it runs
        traffic = await asyncio.to_thread(self.store.traffic, now_ms() - HOUR_MS, HOUR_MS)
        return Report(
            replica=_replica_id(),
            node=ray.util.get_node_ip_address(),
            rollout=self.rollout,
            switching=self.settled is not self.rollout,
            refused=self.refused,
            bundles={name: recommender.bundle.version for name, recommender in arms.named().items()},
            share=arms.share,
            queue_age_s=(now_ms() - arms.stable.refreshed_at) / 1000,
            impressions=sum(part.impressions for part in traffic),
            clicks=sum(part.clicks for part in traffic),
            refusals=self.refusals,
        )

    async def _switch(self, rollout: Rollout) -> None:
        """Carry out a rollout, unless a later one has come, or refuse it."""
        async with self._switching:
            if rollout is not self.rollout:
                return
            try:
                self._use(await self._arms_of(rollout))
                self.refused, self.settled = "", rollout
            except Exception as problem:
                self._refuse(rollout, problem)

    def _use(self, arms: Arms) -> None:
        """Answer from these arms from now on. Requests that are under way hold the recommender that they began with."""
        before, self.arms = self.arms, arms
        for value, those in ((0, before), (1, arms)):
            for name, recommender in those.named().items() if those else ():
                self.metrics.set("bundle_loaded", value, version=recommender.bundle.version, arm=name)
        log.info("serving %s", {name: recommender.bundle.version for name, recommender in arms.named().items()})

    def _refuse(self, rollout: Rollout, problem: Exception) -> None:
        log.error("%s is refused, the service goes on with what it has", rollout, exc_info=problem)
        self.refused = str(problem) if isinstance(problem, RayrecError) else repr(problem)
        self.refusals, self.settled = self.refusals + 1, rollout
        self.metrics.count("swaps_refused_total")

    async def _arms_of(self, rollout: Rollout) -> Arms:
        """The recommenders that a rollout names: those that are there, and others loaded beside them."""
        there = {each.bundle.version: each for each in self.arms.named().values()} if self.arms is not None else {}
        found = [
            there.get(version) or await self._recommender(version, folder) for version, folder in _located(self.workspace, rollout)
        ]
        return Arms(found[0], found[1] if rollout.canary else None, rollout.canary.share if rollout.canary else 0.0)

    async def _recommender(self, version: str, folder: str) -> Recommender:
        """Loaded and, unless the whole service is only starting, ready in every ranker and tried out."""
        recommender = await asyncio.to_thread(self._load, version, folder)
        if self.arms is not None:
            await self._make_rankers_ready(recommender.bundle)
            await try_out(recommender)
        log.info("bundle %s: recall is loaded", version)
        return recommender

    def _load(self, version: str, folder: str) -> Recommender:
        bundle, config = Bundle.load(self.workspace.fs, folder, version), self.config
        return Recommender(bundle, self.store, self._rank_with(version), config.recall, config.selection, config.seed)

    async def _make_rankers_ready(self, bundle: Bundle) -> None:
        """Those that are just being told of the rollout are in none of Serve's lists; they load what it names by themselves."""
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            while True:
                try:
                    sizes = await self.ranker.broadcast("prepare", bundle.version).results_async()
                    break
                except DeploymentUnavailableError:  # all of them are
                    await asyncio.sleep(0.2)
        if wrong := [size for size in sizes if size != len(bundle.item_ids)]:
            raise BundleError(
                f"bundle {bundle.version}: its ranker knows {wrong[0]:,} items and its tables {len(bundle.item_ids):,}"
            )

    def _rank_with(self, version: str) -> Rank:
        async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
            clicks = user.clicked.astype(np.int32).tobytes(), user.clicked_at.astype(np.int64).tobytes()
            call: Call = (version, user_id, *clicks, at, candidates.astype(np.int32).tobytes(), context)
            return np.frombuffer(await self._ask_ranker(call), np.float32)

        return rank

    async def _ask_ranker(self, call: Call) -> bytes:
        """Half of the request's time goes to one ranker; when that one dies or is lost, the other half to another.

        Raises `OverloadedError` when neither answers, or at once when all have more to do than they can.
        """
        for last in (False, True):
            try:
                return await asyncio.wait_for(self.ranker.rank.remote(call), self.config.serving.timeout_s / 2)
            except BackPressureError as error:
                raise OverloadedError("too many requests wait for the ranker") from error
            except (RayActorError, RayServeException, grpc.RpcError, TimeoutError, BundleError) as error:
                if last:
                    raise OverloadedError(f"the ranker did not answer: {error!r}") from error
                log.warning("asking another ranker, as one did not answer: %r", error)
        raise AssertionError("unreachable")

    async def _refresh(self) -> None:
        """Keep the queues up to date with the events, for ever."""
        while True:
            await asyncio.sleep(self.config.serving.refresh_s)
            assert self.arms is not None
            for recommender in self.arms.named().values():
                before, now = recommender.refreshed_at, now_ms()
                try:
                    await asyncio.to_thread(recommender.refresh, now)
                except Exception:
                    log.exception("the queues could not be refreshed; trying again")
                if recommender.last_event_at == now:  # what came right after the refresh before waited longest
                    self.metrics.set("event_lag_seconds", (now_ms() - before) / 1000)
                self.metrics.set("queue_age_seconds", (now_ms() - recommender.refreshed_at) / 1000)

    async def _prune(self) -> None:
        """Drop the events that are older than they may get, for ever."""
        days = self.config.serving.retention_days
        while True:
            try:
                dropped = await asyncio.to_thread(self.store.prune, now_ms() - int(days * 24 * HOUR_MS))
                log.info("%d events were older than %g days", dropped, days)
            except Exception:
                log.exception("old events could not be dropped; trying again")
            await asyncio.sleep(PRUNE_EVERY_S)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)


def _located(workspace: Workspace, rollout: Rollout) -> list[tuple[str, str]]:
    """The versions and folders of the bundles that a rollout names, the stable one first."""
    return [locate(workspace, version) for version in (rollout.version, *([rollout.canary.version] if rollout.canary else []))]


def _replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)


def bind_to_node_address() -> None:
    """Make this replica's inter-deployment gRPC server, which takes pickles, listen on the node's own address alone.

    Ray binds it to every interface, also on a node whose address is the loopback. Must run before the replica has been initialised.
    """
    from ray.serve._private import replica

    node = ray.util.get_node_ip_address()
    host, plain = f"[{node}]" if ":" in node else node, replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: plain(server, address.replace("[::]", host))
