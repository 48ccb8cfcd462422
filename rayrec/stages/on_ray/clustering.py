"""K-means over more vectors than one machine's memory holds: the passes of `clustering` as Ray tasks on the blocks of a data set.

The blocks stay where Ray Data put them (in its object store, which spills to disk). A pass sends the centres out and gets one
small result for each block back. It is a round of plain tasks: as a Ray Data job of its own, each pass would start a new plan.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from rayrec.topics.clustering import MAX_ITERATIONS, Each, k_means


def cluster(dataset: ray.data.Dataset, clusters: int, seed: int, max_iterations: int = MAX_ITERATIONS) -> np.ndarray:
    """What `clustering.cluster` gives, for the column `vector` (lists of equally many float32) of a data set.

    The same for the same seed and the same blocks, in whatever order these come.
    """
    return k_means(passes(dataset), clusters, seed, max_iterations)


def passes(dataset: ray.data.Dataset) -> Each:
    """Computes the data set, and gives the function through which `clustering` works on its blocks."""
    blocks = dataset.select_columns(["vector"]).materialize().to_arrow_refs()
    marks = ray.get([on_block.remote(_mark, block) for block in blocks])
    # Ray Data promises no order, so the blocks' contents make one.
    ordered = [blocks[place] for place in sorted(range(len(blocks)), key=marks.__getitem__) if marks[place][0]]

    def each(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        sent = [ray.put(argument) for argument in arguments]
        results = [on_block.remote(work, block, *sent) for block in ordered]
        while results:
            yield ray.get(results.pop(0))

    return each


@ray.remote
def on_block(work: Callable[..., Any], block: pa.Table, *arguments: Any) -> Any:
    column = block["vector"].combine_chunks()
    return work(column.flatten().to_numpy().reshape(len(column), -1) if len(column) else np.empty((0, 1), np.float32), *arguments)


def _mark(vectors: np.ndarray) -> tuple[int, int]:
    return len(vectors), zlib.crc32(vectors.tobytes())
