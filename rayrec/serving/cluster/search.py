"""The deployment that answers searches. Its networks are heavy and its decoder may be killed, so it is apart from the ingress."""

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import pyarrow as pa

from rayrec.config import Config
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.cluster.replicas import bind_to_node_address, copies_folder
from rayrec.serving.http.request_log import log_as_json
from rayrec.serving.rollout.versions import VersionCache
from rayrec.serving.search_query import Found, SearchError, SearchQuery, Unanswered
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.serving.searching import Searcher

LINGER_S = 3600.0  # how long a bundle is kept that no query asks for

log = logging.getLogger(__name__)


class VideoSearch:
    """Answers queries from whichever bundle they name. It loads a bundle when `TopicRecall` begins to serve it."""

    def __init__(self, config: Config) -> None:
        bind_to_node_address()
        log_as_json()
        self.config, self.workspace = config, Workspace(config.workspace)
        self.searchers: VersionCache[Searcher] = VersionCache(self._load)

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
            return await asyncio.to_thread(lambda: self.searchers.get(version).search(query))
        except SearchError as error:
            return Unanswered(error.status, str(error))

    async def add(self, catalog: pa.Table, features: pa.Table) -> None:
        """Makes new videos findable in all loaded bundles: rows of the tables `catalog` and `features`."""
        for version in self.searchers.versions():
            await asyncio.to_thread(self.searchers.get(version).add, catalog, features)

    def _load(self, version: str) -> "Searcher":
        from rayrec.serving.searching import Searcher  # imports torch

        assert self.config.search is not None
        _, folder = locate(self.workspace, version)
        items = Bundle.load(self.workspace.fs, folder, version, copies_folder()).items
        searcher = Searcher.load(self.workspace.fs, folder, items, self.config.search)
        threading.Thread(target=_warm_up, args=(searcher, version), name="warm-up", daemon=True).start()
        log.info("bundle %s: the search index is loaded", version)
        return searcher


def _warm_up(searcher: "Searcher", version: str) -> None:
    try:
        searcher.warm_up()
        log.info("bundle %s: searches have all that they need", version)
    except Exception:  # the query that needs what is missing says so
        log.exception("bundle %s: some kind of query can't be answered", version)
