"""What recall is given of the collaborative model, for the videos that are there now: `evaluate` and `publish` both ask here."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from rayrec.config import Config
from rayrec.data.vocabulary import indices_of
from rayrec.recall import sources
from rayrec.recall.items import ItemData, item_vectors
from rayrec.recall.neighbours import Neighbours
from rayrec.recall.vectors import Vectors
from rayrec.tables import TEXT
from rayrec.workspace.stage import StageRun

MAY_READ = ("collaborative_items", "embeddings")


def with_learned(run: StageRun, items: ItemData, item_ids: list[str]) -> ItemData:
    """The items, in the order of `item_ids`, with the neighbours and vectors that the stage `collaborative` found, if it has run.

    A video that nobody clicked in training gets its own from its content, by the vectors of the topics stage. Raises `ConfigError`
    if a recall source of the config lacks what it needs.
    """
    table = run.read_if_there("collaborative_items") if run.config.collaborative is not None else None
    if table is not None:
        old = indices_of(pa.array(item_ids, TEXT), table["video_id"].combine_chunks(), 1)
        known = np.append(False, table["known"].to_numpy(zero_copy_only=False))[old]
        content = item_vectors(run.read_if_there("embeddings", ["video_id", "vector"]), item_ids[1:])
        if content is None:
            content = np.zeros((len(item_ids) - 1, 1), np.float32)
        neighbours = Neighbours(_rows(table, "neighbours").astype(np.int32), _rows(table, "weights")).aligned(old)
        items = replace(items, neighbours=neighbours.completed(~known, content))
        if not table["clicked"].null_count:
            vectors = Vectors(_rows(table, "clicked"), _rows(table, "candidate")).aligned(old)
            items = replace(items, vectors=vectors.completed(~known, content, run.config.seed))
    sources.build(run.config.recall, items)
    return items


def settings(config: Config) -> dict[str, bool]:
    """What a stage that asks here depends on, beside its tables."""
    return {"learned": config.collaborative is not None}


def _rows(table: pa.Table, name: str) -> np.ndarray:
    """A column of lists of one length as a matrix, with a row of zeros before them for item 0."""
    found = table[name].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    return np.vstack([np.zeros_like(found[:1]), found])
