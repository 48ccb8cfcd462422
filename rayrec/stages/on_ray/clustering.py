"""Passes over blocks that lie with Ray's workers, as `topics.clustering` makes them, for more vectors than one machine holds.

A pass sends its arguments to the tasks, such as the centres of K-means, and gets one small result for each block back. It is a
round of plain tasks, because as a Ray Data job each pass would plan anew.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from rayrec.topics.clustering import BlockMap


def over_blocks(blocks: Sequence["ray.ObjectRef[Any]"]) -> BlockMap:
    """The function through which one works on these blocks, in this order."""

    def map_blocks(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        sent = [ray.put(argument) for argument in arguments]
        results = [_on_block.remote(work, block, *sent) for block in blocks]
        while results:
            yield ray.get(results.pop(0))

    return map_blocks


@ray.remote(num_cpus=1)
def _on_block(work: Callable[..., Any], block: Any, *arguments: Any) -> Any:
    return work(block, *arguments)
