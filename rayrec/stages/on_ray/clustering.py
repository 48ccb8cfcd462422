"""K-means on Ray, for more vectors than the memory of one machine holds: the passes of `topics.clustering` as tasks on blocks.

The blocks stay where Ray Data put them (in its object store, which spills to disk). A pass sends the centres to the tasks and gets
one small result for each block back. It is a round of plain tasks, because as a Ray Data job each pass would plan anew.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from rayrec.topics.clustering import BLOCK, MAX_ITERATIONS, BlockMap, k_means


def cluster_matrix(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """`cluster` for the rows of a matrix [N, D], in blocks."""
    blocks = [vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK)]
    columns = [pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), vectors.shape[1]) for block in blocks]
    return cluster(ray.data.from_arrow([pa.table({"vector": column}) for column in columns]), clusters, seed)


def cluster(dataset: ray.data.Dataset, clusters: int, seed: int, max_iterations: int = MAX_ITERATIONS) -> np.ndarray:
    """What `topics.clustering.cluster` returns, for the column `vector` (lists of float32 of one length) of a data set.

    The result depends on the seed and on the blocks, but not on their order.
    """
    return k_means(over_blocks(dataset), clusters, seed, max_iterations)


def over_blocks(dataset: ray.data.Dataset) -> BlockMap:
    """Computes the data set, and returns the function through which `topics.clustering` works on its blocks."""
    blocks = dataset.select_columns(["vector"]).materialize().to_arrow_refs()
    keys = ray.get([on_block.remote(_sort_key, block) for block in blocks])
    # Ray Data promises no order, so the blocks are sorted by their contents.
    ordered = [blocks[index] for index in sorted(range(len(blocks)), key=keys.__getitem__) if keys[index][0]]

    def map_blocks(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        sent = [ray.put(argument) for argument in arguments]
        results = [on_block.remote(work, block, *sent) for block in ordered]
        while results:
            yield ray.get(results.pop(0))

    return map_blocks


@ray.remote
def on_block(work: Callable[..., Any], block: pa.Table, *arguments: Any) -> Any:
    column = block["vector"].combine_chunks()
    return work(column.flatten().to_numpy().reshape(len(column), -1) if len(column) else np.empty((0, 1), np.float32), *arguments)


def _sort_key(vectors: np.ndarray) -> tuple[int, int]:
    return len(vectors), zlib.crc32(vectors.tobytes())
