"""Search over the videos of a bundle: what `publish` writes into its folder `search`, and what answers queries from there.

search/space.*          the search model, as it saves itself
search/vectors.npy      float16 [items, S], the vector of each item in the order of the bundle, zeros for one without a vector
search/graph.usearch    only where there are more vectors than `search.exact_videos`, and usearch is installed
"""

import io
from collections.abc import Mapping
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayrec.config import Search
from rayrec.nearest import graph_of
from rayrec.recall.items import item_vectors
from rayrec.retrieval.index import FACTS, Index
from rayrec.retrieval.inputs import Inputs
from rayrec.retrieval.model import RECORD, WEIGHTS, SearchModel, title_rows
from rayrec.retrieval.queries import MODALITY_OF, QueryError, QueryReader
from rayrec.serving.bundle import BundleError, verify
from rayrec.serving.search_query import Found, SearchError, SearchQuery
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.stage import StageRun

FOLDER = "search"  # in the folder of a bundle
VECTORS, GRAPH = "vectors.npy", "graph.usearch"
NO_INDEX = "bundle {} has no search index; run `rayrec search_index CONFIG`, `rayrec publish CONFIG` and `rayrec swap CONFIG`"


class Searcher:
    """Answers queries about the videos of one bundle, and those that are added to it while it serves. Any thread may call it."""

    def __init__(self, model: SearchModel, index: Index, reader: QueryReader) -> None:
        self.model, self.index, self.reader = model, index, reader

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str, items: pa.Table, settings: Search) -> Self:
        """From the folder of a bundle, whose table of items is given.

        Raises `SearchError` for a bundle without an index, and `BundleError` if a file is not the one that was published.
        """
        if not fs.get_file_info(f"{folder}/{FOLDER}/{RECORD}").is_file:
            raise SearchError(404, NO_INDEX.format(folder.rsplit("/", 2)[-2]))
        verify(fs, folder, f"{FOLDER}/")
        model = SearchModel.load(fs, f"{folder}/{FOLDER}")
        vectors = np.load(io.BytesIO(read_whole(fs, f"{folder}/{FOLDER}/{VECTORS}")), allow_pickle=False).astype(np.float32)
        if len(vectors) != items.num_rows:
            raise BundleError(f"{folder}: its search index has {len(vectors):,} videos, but its tables hold {items.num_rows:,}")
        graph = f"{folder}/{FOLDER}/{GRAPH}"
        found = read_whole(fs, graph) if fs.get_file_info(graph).is_file else None
        reader = QueryReader(model.features, model.seed, settings.decode_timeout_s)
        return cls(model, Index(items.select(FACTS.names), vectors, settings.exact_videos, found), reader)

    def search(self, query: SearchQuery) -> Found:
        """Raises `SearchError` for a query that can't be read, or that is of a kind that the index does not know."""
        modality = MODALITY_OF[query.kind]
        if modality not in self.model.space.sizes:
            known = [kind for kind, name in MODALITY_OF.items() if name in self.model.space.sizes]
            raise SearchError(422, f"this index can't be searched by {query.kind}; it was made for {', '.join(known) or 'nothing'}")
        try:
            values = self.reader.read(query.kind, query.content)
        except QueryError as error:
            raise SearchError(422, str(error)) from error
        vectors, tags = self.model.query_vectors(modality, values)
        floor = self.model.floors[modality] if query.min_score is None else query.min_score
        text = query.content if isinstance(query.content, str) else ""
        return Found(*self.index.search(vectors[0], query.k, floor, query.filters, text), tags[0], floor)

    def place(self, video: str | Mapping[str, list[float]]) -> np.ndarray | None:
        """Where a video is in the space, float32 [S] of length 1; None if nothing is known of it there.

        It is given by its id or by its features of some modalities. Raises `SearchError` for features that the space does not read.
        """
        if isinstance(video, str):
            return self.index.vector_of(video)
        sizes = self.model.space.sizes
        for name, numbers in video.items():
            if name not in sizes:
                raise SearchError(422, f"vectors.{name}: the space of search does not read {name}; it reads {', '.join(sizes)}")
            if len(numbers) != sizes[name]:
                raise SearchError(422, f"vectors.{name}: must hold {sizes[name]:,} numbers, as features do, not {len(numbers):,}")
        rows = {name: (np.ones(1, dtype=bool), np.array([numbers], np.float32)) for name, numbers in video.items()}
        found = self.model.video_vectors(Inputs.of_rows(1, rows))[0]
        return found if found.any() else None

    def add(self, catalog: pa.Table, features: pa.Table) -> None:
        """Make new videos findable from now on: rows of the tables `catalog` and `features`, of which the latter count.

        A video that is known already is replaced. One of which nothing is known that the space reads is not found.
        """
        ids = features["video_id"]
        vectors = self.model.video_vectors(self.model.inputs(features, title_rows(catalog, ids)))
        at = pc.index_in(ids, value_set=catalog["video_id"].combine_chunks())
        known = {name: catalog[name].take(at) for name in FACTS.names if name != "video_id" and name in catalog.column_names}
        self.index.add(pa.table({"video_id": ids} | known), vectors)

    def warm_up(self) -> None:
        """Load what queries need, so that the first one need not wait."""
        self.reader.warm_up([kind for kind, name in MODALITY_OF.items() if name in self.model.space.sizes])

    def close(self) -> None:
        self.reader.close()


def write(run: StageRun, folder: str, ids: list[str]) -> None:
    """Write the folder `search` of the bundle in `folder`, whose items are these videos, if the stage `search_index` has run."""
    vectors = run.read_if_there("search_vectors")
    found = item_vectors(vectors, ids)
    if found is None:
        return
    made = f"{run.workspace.check('search_index')}/model"
    for name in (WEIGHTS, RECORD):
        write_whole(run.fs, f"{folder}/{FOLDER}/{name}", read_whole(run.fs, f"{made}/{name}"))
    buffer = io.BytesIO()
    np.save(buffer, found.astype(np.float16), allow_pickle=False)
    write_whole(run.fs, f"{folder}/{FOLDER}/{VECTORS}", buffer.getvalue())
    if len(found) > (run.config.search or Search()).exact_videos and (graph := graph_of(found)) is not None:
        write_whole(run.fs, f"{folder}/{FOLDER}/{GRAPH}", graph)
