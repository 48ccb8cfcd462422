"""The deployment that answers HTTP requests: it finds candidates, asks a ranker for their scores, and selects a page."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, cast

import grpc  # type: ignore[import-untyped]
import numpy as np
import ray
from fastapi import FastAPI
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving.additions import described_by
from rayrec.serving.assignment import Experiments
from rayrec.serving.attention import Attention
from rayrec.serving.bundle import Bundle, BundleError
from rayrec.serving.cluster import logs
from rayrec.serving.cluster.metrics import RayMetrics
from rayrec.serving.cluster.ranker import Missing, RankRequest
from rayrec.serving.cluster.replicas import (
    bind_to_node_address,
    bundles_of,
    check_request_ids,
    copies_folder,
    log_folder,
    replica_id,
)
from rayrec.serving.http import auth
from rayrec.serving.http.app import create_api
from rayrec.serving.http.request_log import log_as_json
from rayrec.serving.inbox import Described, Inbox
from rayrec.serving.rank_calls import RankCalls
from rayrec.serving.recommender import Look, OverloadedError, Rank, Recommender, UserState, look_nowhere, now_ms, rank_in_order
from rayrec.serving.rollout.arms import Arms, Report, Rollout
from rayrec.serving.rollout.history import swap_history
from rayrec.serving.rollout.versions import first_that_loads, try_out
from rayrec.serving.search_query import Found, SearchError, SearchQuery, Unanswered
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Addition
from rayrec.workspace.versions import Workspace

LOAD_TIMEOUT_S = 240.0  # for the rankers to load a bundle
PREPARE_TIMEOUT_S = 60.0  # for `VideoIntake` to describe added videos for a bundle
PRUNE_INTERVAL_S = 3600.0
HOUR_MS = 3600 * 1000
UNREACHABLE = (RayActorError, RayServeException, grpc.RpcError, TimeoutError, BundleError)  # of another deployment

log = logging.getLogger(__name__)


class TopicRecall:
    """The HTTP ingress: walks through a request's steps and asks the ranker for scores."""

    def __init__(
        self,
        config: Config,
        ranker: DeploymentHandle,
        search: DeploymentHandle | None = None,
        intake: DeploymentHandle | None = None,
    ) -> None:
        bind_to_node_address()
        check_request_ids()
        log_as_json()
        self.config, self.ranker, self.searcher, self.keys = config, ranker, search, auth.Keys.of()
        auth.check_exposure(config.serving.host, self.keys)
        auth.check_exposure(ray.util.get_node_ip_address(), self.keys)
        self.workspace, self.store, self.metrics = Workspace(config.workspace), open_store(config), RayMetrics()
        describe = None if intake is None else self._described
        self.inbox = Inbox(config, self.workspace, self.store, self._arms, describe, self._tell_rankers)
        self.intake = intake
        self.told = 0  # the number of the last added video that the rankers were given
        self.arms: Arms | None = None
        self.rollout, self.refused, self.refusals = Rollout(), "", 0
        self.settled: Rollout | None = None  # the last rollout that was carried out or refused
        self._switching, self._tasks = asyncio.Lock(), set[asyncio.Task[None]]()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(
            lambda: self.arms,
            self.config.serving,
            self.keys,
            self.metrics,
            partial(swap_history, self.workspace),
            inbox=self.inbox,
            ask=None if self.searcher is None else self._search,
            searching=self.config.search,
            place=None if self.searcher is None else self._place,
            music=self.config.music,
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new replica loads what is wanted, or else another published bundle. It raises if none can be loaded.

        A running replica only notes what is wanted and returns; it switches in the background.
        """
        self.rollout = Rollout.model_validate(user_config)
        if self.arms is not None:
            self._start(self._switch(self.rollout))
            return
        try:
            self._use(await self._arms_of(self.rollout))
            self.settled = self.rollout
        except Exception as problem:
            self._refuse(self.rollout, problem)
            published = [manifest.version for manifest in reversed(self.workspace.versions("publish"))]
            self._use(await first_that_loads(published, lambda version: self._arms_of(Rollout(version=version))))
        self._start(self._refresh())
        self._start(self._prune())

    async def report(self) -> Report:
        """What this replica serves, for `rayrec swap` and `rayrec serve --status`."""
        arms = self.arms
        assert arms is not None  # Serve calls a replica only after its first reconfigure
        traffic = await asyncio.to_thread(self.store.traffic, now_ms() - HOUR_MS, HOUR_MS)
        return Report(
            replica=replica_id(),
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
            guardrails=deepcopy(arms.guardrails),  # another thread sends the report
        )

    # --- switching to a rollout ---

    async def _switch(self, rollout: Rollout) -> None:
        """Carries out or refuses a rollout, unless a later one has arrived."""
        async with self._switching:
            if rollout is not self.rollout:
                return
            try:
                self._use(await self._arms_of(rollout))
                self.refused, self.settled = "", rollout
            except Exception as problem:
                self._refuse(rollout, problem)

    def _use(self, arms: Arms) -> None:
        """Answers from these arms from now on. Requests in progress keep the recommender that they began with."""
        previous, self.arms = self.arms, arms
        if self.searcher is not None:
            for recommender in arms.named().values():
                self._start(self._prepare_search(recommender.bundle.version))
        for value, changed in ((0, previous), (1, arms)):
            for name, recommender in changed.named().items() if changed else ():
                self.metrics.set("bundle_loaded", value, version=recommender.bundle.version, arm=name)
        log.info("serving %s", {name: recommender.bundle.version for name, recommender in arms.named().items()})

    def _refuse(self, rollout: Rollout, problem: Exception) -> None:
        log.error("%s is refused; the service keeps what it has", rollout, exc_info=problem)
        self.refused = str(problem) if isinstance(problem, RayrecError) else repr(problem)
        self.refusals, self.settled = self.refusals + 1, rollout
        self.metrics.count("swaps_refused_total")

    async def _arms_of(self, rollout: Rollout) -> Arms:
        """The recommenders that a rollout names. Those that are in use are kept; the others are loaded beside them."""
        in_use = {each.bundle.version: each for each in self.arms.named().values()} if self.arms is not None else {}
        found = [
            in_use.get(version) or await self._recommender(version, folder)
            for version, folder in bundles_of(self.workspace, rollout)
        ]
        return Arms(found[0], found[1] if rollout.canary else None, rollout.canary.share if rollout.canary else 0.0)

    async def _recommender(self, version: str, folder: str) -> Recommender:
        """Loads a bundle. Unless this replica is only starting, it is also loaded by every ranker and tried out."""
        recommender = await asyncio.to_thread(self._load, version, folder)
        if self.arms is not None:
            await self._prepare_intake(recommender.bundle)
            await asyncio.to_thread(recommender.refresh, now_ms())
            await self._prepare_rankers(recommender.bundle)
            await try_out(recommender)
        log.info("bundle %s: recall is loaded", version)
        return recommender

    def _load(self, version: str, folder: str) -> Recommender:
        bundle, config = Bundle.load(self.workspace.fs, folder, version, copies_folder()), self.config
        return Recommender(
            bundle,
            self.store,
            self._rank_with(bundle),
            config.recall,
            config.selection,
            config.seed,
            lost=lambda count: self.metrics.count("impressions_lost_total", count),
            look=self._look_with(bundle),
            experiments=Experiments(config.serving.experiments),
        )

    async def _prepare_rankers(self, bundle: Bundle) -> None:
        """Has every ranker load a bundle's ranker, if it has one.

        Raises `BundleError` if a ranker can't, or if it does not fit the bundle's tables. Serve does not list rankers that are just
        being reconfigured, but these load the bundles of the rollout themselves.
        """
        if not bundle.info.has_ranker:
            return
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            while True:
                try:
                    sizes = await self.ranker.broadcast("prepare", bundle.version).results_async()
                    break
                except DeploymentUnavailableError:  # all rankers are being reconfigured
                    await asyncio.sleep(0.2)
        if wrong := [size for size in sizes if size != len(bundle.item_ids)]:
            raise BundleError(
                f"bundle {bundle.version}: its ranker knows {wrong[0]:,} items, but its tables hold {len(bundle.item_ids):,}"
            )

    # --- new videos ---

    def _arms(self) -> Arms:
        """Raises `OverloadedError` while nothing is loaded."""
        if self.arms is None:
            raise OverloadedError("no bundle is loaded yet")
        return self.arms

    async def _described(self, facts: dict[str, Any]) -> Described:
        """Has a video described. Raises `OverloadedError` if `VideoIntake` has too much to do or does not answer."""
        assert self.intake is not None
        assert self.config.serving.uploads is not None
        try:
            return await asyncio.wait_for(self.intake.add.remote(facts), self.config.serving.uploads.timeout_s)
        except BackPressureError as error:
            raise OverloadedError("too many videos wait to be described") from error
        except (RayActorError, DeploymentUnavailableError, grpc.RpcError, TimeoutError, BundleError) as error:
            raise OverloadedError(f"the video was not described: {error!r}") from error

    async def _prepare_intake(self, bundle: Bundle) -> None:
        """Has the videos described that were added and are not in a bundle, so that it has them from the beginning."""
        if self.intake is None:
            return
        try:
            await asyncio.wait_for(self.intake.prepare.remote(bundle.version), PREPARE_TIMEOUT_S)
        except Exception as error:  # they come later, when they are described
            log.warning("bundle %s: it begins without some added videos: %r", bundle.version, error)

    async def _tell_rankers(self) -> None:
        """Gives the rankers the videos that were added since they were told last, before they are asked for them."""
        additions = await asyncio.to_thread(self.store.additions, self.told)
        if additions:
            for recommender in self._arms().named().values():
                await self._give(recommender.bundle, additions)
            self.told = additions[-1].number

    async def _give(self, bundle: Bundle, additions: Sequence[Addition]) -> None:
        """Gives added videos to all rankers. A ranker that is not reached asks for them when it needs them."""
        if not bundle.info.has_ranker:
            return
        theirs = described_by(additions, bundle.model)
        try:
            async with asyncio.timeout(self.config.serving.timeout_s):
                await self.ranker.broadcast("take", bundle.version, theirs).results_async()
        except Exception as error:
            log.warning("not all rankers were given %d added videos: %r", len(theirs), error)

    # --- ranking ---

    def _rank_with(self, bundle: Bundle) -> Rank:
        if not bundle.info.has_ranker:
            return rank_in_order

        async def ask(requests: list[RankRequest]) -> list[bytes]:
            return cast(list[bytes], await self._ask_ranker(bundle, self.ranker.rank, bundle.version, requests))

        calls = RankCalls(ask)

        async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
            values = np.frombuffer(await calls.ask(RankRequest.of(user_id, user, at, candidates, context)), np.float32)
            return values.reshape(-1, len(bundle.info.goals)) if bundle.info.goals else values

        return rank

    def _look_with(self, bundle: Bundle) -> Look:
        if not bundle.info.has_ranker:
            return look_nowhere

        async def look(user_id: str, item: int) -> Attention | str:
            return cast(Attention | str, await self._ask_ranker(bundle, self.ranker.look, bundle.version, user_id, item))

        return look

    async def _ask_ranker(self, bundle: Bundle, method: DeploymentHandle, *arguments: object) -> Any:
        """Returns what a method of a ranker answers.

        One ranker gets half of a request's time. If it dies or does not answer in time, another one gets the other half. Raises
        `OverloadedError` if neither answers, or at once if all rankers are overloaded. A ranker that lacks videos that were added,
        because it is new, is given them; this counts as no answer.
        """
        for last in (False, True):
            try:
                answer = await asyncio.wait_for(method.remote(*arguments), self.config.serving.timeout_s / 2)
                if not isinstance(answer, Missing):
                    return answer
                if last:
                    raise OverloadedError("the ranker lacks videos that were added")
                additions = await asyncio.to_thread(self.store.additions, min(answer.numbers) - 1)
                await self._give(bundle, additions)
            except BackPressureError as error:
                raise OverloadedError("too many requests wait for the ranker") from error
            except UNREACHABLE as error:
                if last:
                    raise OverloadedError(f"the ranker did not answer: {error!r}") from error
                log.warning("a ranker did not answer, asking another one: %r", error)
        raise AssertionError("unreachable")

    # --- searching ---

    async def _search(self, version: str, query: SearchQuery) -> Found:
        """Raises `SearchError` for a query that can't be answered, and `OverloadedError` if nothing answers now."""
        return cast(Found, await self._ask_search("search", version, query))

    async def _place(self, version: str, video: str | dict[str, list[float]]) -> np.ndarray | None:
        """Where a video is in the space of search. Raises as `_search` does."""
        return cast("np.ndarray | None", await self._ask_search("place", version, video))

    async def _ask_search(self, method: str, *arguments: object) -> object:
        assert self.searcher is not None
        try:
            answer = await asyncio.wait_for(getattr(self.searcher, method).remote(*arguments), self.config.serving.timeout_s)
        except (*UNREACHABLE, BackPressureError) as error:
            raise OverloadedError(f"the search did not answer: {error!r}") from error
        if isinstance(answer, Unanswered):
            raise SearchError(answer.status, answer.sentence)
        return answer

    async def _prepare_search(self, version: str) -> None:
        """Has all replicas that search load a bundle. They load it when a query needs it, if they can't now."""
        assert self.searcher is not None
        try:
            await self.searcher.broadcast("prepare", version).results_async()
        except Exception as problem:
            log.warning("bundle %s: the search is not prepared: %r", version, problem)

    # --- what runs for ever ---

    async def _refresh(self) -> None:
        """Keeps the queues up to date with the events."""
        while True:
            await asyncio.sleep(self.config.serving.refresh_s)
            assert self.arms is not None
            for recommender in self.arms.named().values():
                before, now = recommender.refreshed_at, now_ms()
                try:
                    await asyncio.to_thread(recommender.refresh, now)
                except Exception:
                    log.exception("the queues could not be refreshed; trying again")
                if recommender.last_event_at == now:  # an event that arrived right after the previous refresh waited longest
                    self.metrics.set("event_lag_seconds", (now_ms() - before) / 1000)
                self.metrics.set("queue_age_seconds", (now_ms() - recommender.refreshed_at) / 1000)

    async def _prune(self) -> None:
        """Deletes the events that are older than serving.retention_days, what was seen before recall.seen_days, and old logs."""
        days, seen_days = self.config.serving.retention_days, self.config.recall.seen_days
        while True:
            try:
                before, seen_before = (now_ms() - int(each * 24 * HOUR_MS) for each in (days, seen_days))
                pruned = await asyncio.to_thread(self.store.prune, before, seen_before)
                log.info("deleted %d events that were older than %g days", pruned, days)
            except Exception:
                log.exception("old events could not be deleted; trying again")
            try:
                removed = await asyncio.to_thread(logs.remove_old, log_folder())
                log.info("removed %d old log files", removed)
            except Exception:
                log.exception("old logs could not be removed; trying again")
            await asyncio.sleep(PRUNE_INTERVAL_S)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
