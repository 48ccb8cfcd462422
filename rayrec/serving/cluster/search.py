"""The deployment that answers searches. Its networks are heavy and its decoder may be killed, so it is apart from the ingress.

It also says where a video is in the space of search that is in no bundle, for music.
"""

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import numpy as np

from rayrec.config import Config
from rayrec.serving.additions import AddedVideo, catalog_table, described_by, features_table
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.cluster.replicas import bind_to_node_address, copies_folder
from rayrec.serving.http.request_log import log_as_json
from rayrec.serving.rollout.versions import VersionCache
from rayrec.serving.search_query import Found, SearchError, SearchQuery, Unanswered
from rayrec.serving.state.opening import open_store
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.serving.searching import Searcher

LINGER_S = 3600.0  # how long a bundle is kept that no query asks for

log = logging.getLogger(__name__)


class VideoSearch:
    """Answers queries from whichever bundle they name. It loads a bundle when `TopicRecall` begins to serve it.

    Before a query is answered, the videos that were added to the service since the query before become findable.
    """

    def __init__(self, config: Config) -> None:
        bind_to_node_address()
        log_as_json()
        self.config, self.workspace = config, Workspace(config.workspace)
        self.store = open_store(config) if config.serving.uploads is not None else None
        self.searchers: VersionCache[Searcher] = VersionCache(self._load)
        self.models: dict[str, str] = {}  # version -> `Bundle.model`
        self.taken: dict[str, int] = {}  # version -> the number of the last added video that it was given

    async def prepare(self, version: str) -> None:
        """Loads a bundle, and what its queries need, and drops bundles that have not been used for long."""
        try:
            await asyncio.to_thread(self.searchers.get, version)
        except SearchError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("bundle %s can't be searched", version)
        self.searchers.drop({version}, LINGER_S)

    async def search(self, version: str, query: SearchQuery) -> Found | Unanswered:
        """The videos of a bundle that a query finds. Raises `BundleError` if the bundle is broken."""
        try:
            return await asyncio.to_thread(self._search, version, query)
        except SearchError as error:
            return Unanswered(error.status, str(error))

    async def place(self, version: str, video: str | dict[str, list[float]]) -> np.ndarray | Unanswered | None:
        """Where a video is in the space of a bundle, as `Searcher.place` says. Raises `BundleError` if the bundle is broken."""
        try:
            return await asyncio.to_thread(self._place, version, video)
        except SearchError as error:
            return Unanswered(error.status, str(error))

    def _place(self, version: str, video: str | dict[str, list[float]]) -> np.ndarray | None:
        searcher = self.searchers.get(version)
        self._take(version, searcher)
        return searcher.place(video)

    def _search(self, version: str, query: SearchQuery) -> Found:
        searcher = self.searchers.get(version)
        self._take(version, searcher)
        return searcher.search(query)

    def _take(self, version: str, searcher: "Searcher") -> None:
        """Adds what is new in the store to the index. Threads that do so at the same time add it twice, which changes nothing."""
        additions = self.store.additions(self.taken[version]) if self.store is not None else []
        videos = [AddedVideo.from_json(addition.row) for addition in described_by(additions, self.models[version])]
        if videos:
            searcher.add(catalog_table(videos), features_table(videos))
        if additions:
            self.taken[version] = additions[-1].number

    def _load(self, version: str) -> "Searcher":
        from rayrec.serving.searching import Searcher  # imports torch

        assert self.config.search is not None
        _, folder = locate(self.workspace, version)
        bundle = Bundle.load(self.workspace.fs, folder, version, copies_folder())
        searcher = Searcher.load(self.workspace.fs, folder, bundle.items, self.config.search)
        self.models[version], self.taken[version] = bundle.model, 0
        threading.Thread(target=_warm_up, args=(searcher, version), name="warm-up", daemon=True).start()
        log.info("bundle %s: the search index is loaded", version)
        return searcher


def _warm_up(searcher: "Searcher", version: str) -> None:
    try:
        searcher.warm_up()
        log.info("bundle %s: searches have all that they need", version)
    except Exception:  # the query that needs what is missing says so
        log.exception("bundle %s: some kind of query can't be answered", version)
