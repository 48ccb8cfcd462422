"""The deployment that scores candidates, on a GPU if Serve has reserved one for it."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import ray

from rayrec.serving.attention import Attention, attention
from rayrec.serving.bundle import load_scorer, locate, verify
from rayrec.serving.cluster.connection import reserved_device
from rayrec.serving.cluster.replicas import bind_to_node_address, bundles_of, replica_id
from rayrec.serving.http.request_log import log_as_json
from rayrec.serving.recommender import UserState
from rayrec.serving.rollout.arms import RankerReport, Rollout
from rayrec.serving.rollout.versions import VersionCache, warm_up
from rayrec.serving.state.store import Addition
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer
    from rayrec.serving.added_items import AddedItems

LINGER_S = 60.0  # how long a ranker keeps a bundle that is no longer wanted, for requests that were made with it

log = logging.getLogger(__name__)


class Missing(NamedTuple):
    """What a ranker answers that lacks videos which were added: their numbers. `take` gives it them."""

    numbers: list[int]


class RankRequest(NamedTuple):
    """What `TopicRecall` asks a ranker: to score the candidates of one request. Arrays are sent as their bytes.

    Items are those of `Items.in_store`.
    """

    user_id: str
    clicked: bytes  # int32: the items of the user's latest clicks, oldest first
    clicked_at: bytes  # int64: their times, UTC ms
    at: int  # the time of the request, UTC ms
    candidates: bytes  # int32 items
    context: dict[str, Any]  # context field -> value
    fields: str = ""  # what was said of the user, JSON

    @classmethod
    def of(cls, user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> Self:
        clicked, clicked_at = user.clicked.astype(np.int32), user.clicked_at.astype(np.int64)
        packed = candidates.astype(np.int32).tobytes()
        return cls(user_id, clicked.tobytes(), clicked_at.tobytes(), at, packed, context, user.fields)


class NeuralRanker:
    """Scores candidates, several requests in one forward pass. At most `sharing` replicas have the memory of one device."""

    def __init__(self, workspace: str, sharing: int = 1) -> None:
        bind_to_node_address()
        log_as_json()
        self.workspace, self.sharing = Workspace(workspace), sharing
        self.scorers = VersionCache(self._load)
        self.added: dict[str, AddedItems] = {}  # by the version of the bundle
        self.wanted: set[str] = set()
        self._unloading: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new replica is ready once it has loaded what is wanted; a running replica loads it while it goes on working.

        It doesn't raise: TopicRecall decides which bundles are served, and asks for them to be loaded.
        """
        loading = asyncio.create_task(self._load_wanted(user_config))
        if self._unloading is None:
            await loading
            self._unloading = asyncio.create_task(self._unload_unused())
        self._loading = loading  # the event loop itself keeps only weak references

    async def _load_wanted(self, user_config: dict[str, Any]) -> None:
        try:
            found = bundles_of(self.workspace, Rollout.model_validate(user_config))
            wanted = [version for version, folder in found if verify(self.workspace.fs, folder, "bundle.json").has_ranker]
            self.wanted = set(wanted)
            for version in wanted:
                await asyncio.to_thread(self.scorers.get, version)
        except Exception:
            log.exception("the ranker can't load the bundles of %s", user_config)

    async def prepare(self, version: str) -> int:
        """Loads and warms up a bundle's ranker unless it is ready, and returns its number of items.

        Raises `BundleError` if the bundle is broken.
        """
        return len((await asyncio.to_thread(self.scorers.get, version)).item_ids)

    async def rank(self, version: str, requests: list[RankRequest]) -> list[bytes] | Missing:
        """The click probabilities of each request's candidates, or the values of goals, as the bytes of float32 numbers.

        All candidates come from the named bundle, so that it scores them, whichever replica switches first.
        """
        if version not in self.scorers:  # a replica that was started during a swap asks for it
            await asyncio.to_thread(self.scorers.get, version)
        named = np.frombuffer(b"".join(part for request in requests for part in (request.candidates, request.clicked)), np.int32)
        if missing := self._added(version).missing(named):
            return Missing(missing)
        return self.rank_together(version, requests)

    async def look(self, version: str, user_id: str, item: int) -> Attention | str | Missing:
        """Where a user looks at the cover of an item, or a sentence that says why that is not known."""
        scorer, named = await asyncio.to_thread(self.scorers.get, version), np.array([item], np.int32)
        if missing := self._added(version).missing(named):
            return Missing(missing)
        return await asyncio.to_thread(attention, scorer, user_id, int(self._added(version).local(named)[0]))

    async def take(self, version: str, additions: Sequence[Addition]) -> None:
        """Takes videos that were added into the items of a bundle. Those that it has already are left alone."""
        if version in self.scorers:  # whoever loads it later asks for them
            await asyncio.to_thread(self._added(version).take, additions)

    def rank_together(self, version: str, requests: list[RankRequest]) -> list[bytes]:
        """The answer to each request, from one forward pass."""
        local = self._added(version).local
        candidates = [local(np.frombuffer(request.candidates, np.int32)) for request in requests]
        padded = np.zeros((len(requests), max(map(len, candidates))), np.int32)
        for row, items in zip(padded, candidates, strict=True):
            row[: len(items)] = items
        scores = self.scorers.get(version).score(
            [request.user_id for request in requests],
            [local(np.frombuffer(request.clicked, np.int32)) for request in requests],
            [np.frombuffer(request.clicked_at, np.int64) for request in requests],
            np.array([request.at for request in requests]),
            padded,
            [request.context for request in requests],
            [request.fields for request in requests],
        )
        return [row[: len(items)].tobytes() for row, items in zip(scores, candidates, strict=True)]

    def _added(self, version: str) -> "AddedItems":
        """The videos that were added to the items of a bundle, which is loaded if necessary."""
        from rayrec.serving.added_items import AddedItems  # imports torch

        scorer, found = self.scorers.get(version), self.added.get(version)
        if found is None or found.scorer is not scorer:
            found = self.added[version] = AddedItems(scorer)
        return found

    def report(self) -> RankerReport:
        return RankerReport(replica_id(), ray.util.get_node_ip_address(), self.scorers.versions())

    def _load(self, version: str) -> "Scorer":
        from rayrec.ranking.frozen import room  # imports torch

        _, folder = locate(self.workspace, version)
        device = reserved_device()
        scorer = load_scorer(self.workspace.fs, folder).to(device)
        frozen = scorer.freeze(room(device, self.sharing))
        warm_up(scorer, folder)
        log.info("bundle %s: the ranker is loaded on %s; its frozen items take %d MB", version, device, frozen / 1e6)
        return scorer

    async def _unload_unused(self) -> None:
        while True:
            await asyncio.sleep(LINGER_S / 2)
            self.scorers.drop(self.wanted, LINGER_S)
            for version in [version for version in self.added if version not in self.scorers]:
                del self.added[version]
