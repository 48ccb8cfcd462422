"""Part files of `features`, written by the workers that are near the rows. This process sees references to them only.

This module does not import torch, which would cost every process that writes seconds and memory.
"""

import time
from collections.abc import Iterable, Iterator

import pyarrow as pa
import ray

from rayrec.errors import RayrecError
from rayrec.features.part_files import Part, write_rows

CPUS_PER_FILE = 4  # for so many CPUs of the cluster, one file may be written at a time; no more rows wait in memory

Block = tuple["ray.ObjectRef[pa.Table]", int]  # rows of EXTRACTED, and their number


def write_blocks(blocks: Iterable[Block], uri: str, names: Iterator[str], videos: int, seconds: float) -> Iterator[Part]:
    """Write the blocks as part files of the workspace `uri`, and yield each when it is written.

    A part has the blocks of so many seconds, or the first ones that have so many videos together.
    """
    writing: list[ray.ObjectRef[Part]] = []
    try:
        for part in parts_of(blocks, videos, seconds):
            # Not before the first block: making it may be what joins or starts Ray.
            at_once = max(2, int(ray.cluster_resources().get("CPU", 1)) // CPUS_PER_FILE)
            writing.append(_write.remote(uri, next(names), *part))
            done, writing = ray.wait(writing, num_returns=len(writing), timeout=0)
            if len(writing) == at_once:
                more, writing = ray.wait(writing)
                done += more
            yield from ray.get(done)
        yield from ray.get(writing)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RayrecError | OSError):
            raise error.cause from None
        raise


def parts_of(blocks: Iterable[Block], videos: int, seconds: float) -> Iterator[list["ray.ObjectRef[pa.Table]"]]:
    """The blocks of each part."""
    part: list[ray.ObjectRef[pa.Table]] = []
    rows, begun = 0, time.monotonic()
    for block, count in blocks:
        part.append(block)
        rows += count
        if rows >= videos or time.monotonic() > begun + seconds:
            yield part
            part, rows, begun = [], 0, time.monotonic()
    if part:
        yield part


@ray.remote(num_cpus=0)  # the decoders and the networks hold all of them
def _write(uri: str, path: str, *blocks: pa.Table) -> Part:
    return write_rows(uri, path, *blocks)
