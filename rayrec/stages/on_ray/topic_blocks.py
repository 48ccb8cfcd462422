"""The videos of a large catalog as blocks that Ray's workers encode and keep, so that no process holds all of them.

A block has the videos of one part file of `vectors`, or of `features` where the encoders read covers; the worker reads that file.
Videos that are in none of them are in blocks of their own. The blocks stay in Ray's object store, which spills to disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from rayrec import tables
from rayrec.serving.cluster.connection import connect, reserved_device
from rayrec.stages.on_ray.clustering import over_blocks
from rayrec.topics.blocks import Block, Encoded, block_of, encode, on_known
from rayrec.topics.clustering import BlockMap
from rayrec.topics.model import TopicModel
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.parts import read_checked
from rayrec.workspace.stage import StageRun

BLOCK_VIDEOS = 4096  # in the blocks of videos that are in no file


@dataclass(frozen=True)
class PartFile:
    """What a worker reads of a part file."""

    table: str
    path: str
    digest: str  # the SHA-256 of what was written
    columns: list[str]


def embedded(run: StageRun, model: TopicModel, catalog: pa.Table, fit: bool) -> BlockMap:
    """A `map_blocks` over the blocks of all videos of the catalog. With `fit`, the model's join is fitted before."""
    connect(run.config)
    sent = ray.put(model)
    run_encode = _encode.options(num_gpus=run.config.topics.gpus_per_worker)
    encoded = [run_encode.remote(run.workspace.uri, file, some, sent) for file, some in _shares(run, model, catalog)]
    if fit:
        model.fit(on_known(over_blocks(encoded)))
        sent = ray.put(model)
    return over_blocks([_block.remote(each, number, sent) for number, each in enumerate(encoded)])


def _shares(run: StageRun, model: TopicModel, catalog: pa.Table) -> Iterator[tuple[PartFile | None, pa.Table]]:
    """The part file and the rows of the catalog of each block."""
    table, columns = _source(model)
    files = run.part_digests(table) if table else {}
    ids = [
        pq.read_table(path, filesystem=run.fs, columns=["video_id"])["video_id"].cast(tables.TEXT).combine_chunks()
        for path in files
    ]
    rows = pc.index_in(pa.concat_arrays([pa.array([], tables.TEXT), *ids]), value_set=catalog["video_id"].combine_chunks())
    first, alone = 0, np.ones(catalog.num_rows, dtype=bool)
    for (path, digest), found in zip(files.items(), ids, strict=True):
        here = rows.slice(first, len(found)).drop_null()
        first += len(found)
        alone[here.to_numpy()] = False
        yield PartFile(table, path, digest, columns), catalog.take(here)
    rest = catalog.filter(pa.array(alone))
    yield from ((None, rest.slice(start, BLOCK_VIDEOS)) for start in range(0, rest.num_rows, BLOCK_VIDEOS))


def _source(model: TopicModel) -> tuple[str, list[str]]:
    """The table with what the encoders of pictures read, and the columns; no table if there are none."""
    representation = model.representation
    if representation is not None and representation.covers:
        return "features", ["video_id", "cover_jpeg"]
    if representation is not None and representation.scales:
        return "vectors", ["video_id", *representation.scales]
    return "", []


@ray.remote(num_cpus=1)
def _encode(uri: str, file: PartFile | None, catalog: pa.Table, model: TopicModel) -> Encoded:
    read: dict[str, pa.Table | None] = {"vectors": None, "features": None}
    if file is not None:
        read[file.table] = read_checked(open_filesystem(uri)[0], file.path, file.digest, file.table, file.columns)
    return encode(model, catalog, read["vectors"], read["features"], reserved_device())


@ray.remote(num_cpus=1)
def _block(encoded: Encoded, number: int, model: TopicModel) -> Block:
    return block_of(encoded, number, model)
