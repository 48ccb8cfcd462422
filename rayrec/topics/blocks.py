"""What the stage `topics` does with one block of videos after the training: a small catalog is one block, a large one many.

A block is a table of its own: its videos are embedded, clustered (`clustering.py`), assigned to topics and written where the block
is, and what comes back is small. The function `map_blocks(work, *arguments)`, as in `clustering.py`, does it with every block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import torch

from rayrec import tables
from rayrec.config import Topics
from rayrec.topics.clustering import BlockMap, assign
from rayrec.topics.model import Known, TopicModel
from rayrec.topics.words import membership
from rayrec.training.trainer import CPU
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.parts import write_part

COLUMNS = ["video_id", "title", "tags", "primary_class", "secondary_class"]  # of the catalog, which training and topics read


@dataclass(frozen=True)
class Encoded:
    """What is known of the videos of a block, before it is joined."""

    catalog: pa.Table
    known: Known


@dataclass(frozen=True)
class Block:
    """The videos of a block of which something is known."""

    number: int
    ids: pa.Array  # video_id
    vectors: np.ndarray  # `a`, L2-normalised float32 [videos, size]
    tags: sp.csr_matrix  # which video has which of the model's tags, 0/1 [videos, tags]

    def __len__(self) -> int:
        return len(self.ids)


class Assigned(NamedTuple):
    """What a block adds to the topics."""

    videos: int
    alone: int  # videos that are not close enough to any topic, and get the nearest one
    videos_of: np.ndarray  # int64 [topics]
    tags_of: sp.csr_matrix  # how many videos of a topic have a tag, float32 [topics, tags]


def encode(
    model: TopicModel, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU
) -> Encoded:
    """What is known of the videos of a piece of the catalog. The other tables may have other videos too."""
    return Encoded(catalog, model.known(catalog, vectors, features, device))


def on_known(map_blocks: BlockMap) -> BlockMap:
    """A `map_blocks` for work with what is known of the videos, from one for encoded blocks."""
    return lambda work, *arguments: map_blocks(_on_known, work, *arguments)


def _on_known(encoded: Encoded, work: Callable[..., Any], *arguments: Any) -> Any:
    return work(encoded.known, *arguments)


def block_of(encoded: Encoded, number: int, model: TopicModel) -> Block:
    """The block of the videos that an encoded one describes."""
    vectors, described = model.joined(encoded.known)
    ids = encoded.catalog["video_id"].combine_chunks().filter(pa.array(described))
    return Block(number, ids, vectors[described], model.tags_of(encoded.catalog)[described])


def vectors_of(block: Block) -> np.ndarray:
    return block.vectors


def on_vectors(map_blocks: BlockMap) -> BlockMap:
    """A `map_blocks` for work with the vectors of the blocks."""
    return lambda work, *arguments: map_blocks(_on_vectors, work, *arguments)


def _on_vectors(block: Block, work: Callable[..., Any], *arguments: Any) -> Any:
    return work(block.vectors, *arguments)


def carried(block: Block, topics: pa.Table, count: int) -> np.ndarray:
    """The sums of the vectors of each of `count` topics of another version (its table `topics`), float32 [topics, size]."""
    rows = pc.index_in(topics["video_id"], value_set=block.ids)
    members = membership(topics["topics"].filter(rows.is_valid()).to_numpy(), count)
    return members @ block.vectors[rows.drop_null().to_numpy()]


def write_topics(block: Block, centres: np.ndarray, settings: Topics, uri: str, folder: str) -> Assigned:
    """Assign the videos to topics, and write them as parts of the tables `topics` and `embeddings` in a folder of a workspace."""
    if not len(block):
        return Assigned(
            0, 0, np.zeros(len(centres), dtype=np.int64), sp.csr_matrix((len(centres), block.tags.shape[1]), dtype=np.float32)
        )
    topics, similarities = assign(block.vectors, centres, settings.threshold, settings.max_topics)
    rows = {
        "embeddings": {"vector": pa.array(list(block.vectors), tables.VECTOR)},
        "topics": {"topics": pa.array(topics, tables.IDS), "similarity": pa.array(similarities, tables.VECTOR)},
    }
    fs, _ = open_filesystem(uri)
    for name, columns in rows.items():
        write_part(fs, f"{folder}/{name}", name, block.number, pa.table({"video_id": block.ids} | columns))
    members = membership(topics, len(centres))
    alone = sum(float(found[0]) < settings.threshold for found in similarities)
    return Assigned(len(block), alone, np.diff(members.indptr).astype(np.int64), (members @ block.tags).tocsr())
