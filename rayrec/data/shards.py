"""A log as it is encoded once: examples and clicks in S shards by user, in files that any number of workers share.

    shards.json                what there is: `LogFacts`
    users.arrow, items.arrow   their ids by index, and whether the training split has them
    shard-00000.examples       25 bytes an example and 2 or 4 for each context field: a batch for each block of the training split,
                               one for validation and one for test; rows in time order
    shard-00000.clicks         the clicks of the shard's users, sorted by user and time

A user is in one shard, with all impressions and clicks, so that a worker that has some shards needs nothing of the others. The
files are in Arrow's format, uncompressed: on a local disk they are mapped into memory piece by piece, and the operating system
keeps one copy for all processes. No process needs to hold more than a block of its training examples.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import torch
from pydantic import TypeAdapter

from rayrec.data.blocks import Block, Columns
from rayrec.data.context import ContextEncoder
from rayrec.data.encoders import Known
from rayrec.data.examples import Examples
from rayrec.data.fields import DataError
from rayrec.data.history import ClickHistory
from rayrec.tables import TEXT
from rayrec.training.exchange import Worker
from rayrec.workspace.files import read_whole, to_json, write_whole
from rayrec.workspace.node_copies import DamagedError, copied, copies_folder
from rayrec.workspace.versions import MANIFEST

GROUP_ROWS = 4_000_000  # of the log, which work on whole users reads at a time
FACTS = "shards.json"  # written when everything else is there
KNOWN = pa.schema({"id": TEXT, "trained": pa.bool_()})
CLICKS = pa.schema({"user": pa.int32(), "item": pa.int32(), "at": pa.int64()})  # `at`: UTC ms, when the click was made
EXAMPLES = pa.schema(
    {
        "user": pa.int32(),
        "item": pa.int32(),
        "clicked": pa.bool_(),
        "at": pa.int64(),
        "clicks": pa.int32(),  # how many clicks the user had made before
        "row": pa.int32(),  # its number, in time order, among the rows of all shards in its block, or in its split
    }
)


@dataclass(frozen=True)
class LogFacts:
    """The content of shards.json."""

    sizes: list[list[int]]  # of each shard: the rows of each training block, of validation and of test
    test_at: int  # UTC ms, when the test begins
    context: ContextEncoder  # of all context fields that were encoded


def examples_file(shard: int) -> str:
    return f"shard-{shard:05}.examples"


def clicks_file(shard: int) -> str:
    return f"shard-{shard:05}.clicks"


def example_schema(context: ContextEncoder) -> pa.Schema:
    """The columns of a shard's examples with their context fields."""
    kind = pa.from_numpy_dtype(context.kind)
    return pa.schema([*EXAMPLES, *(pa.field(f"context_{name}", kind) for name in context.fields)])


@dataclass(frozen=True)
class EncodedLog:
    """The files of an encoded log."""

    fs: pafs.FileSystem
    folder: str
    facts: LogFacts

    @classmethod
    def open(cls, fs: pafs.FileSystem, folder: str) -> Self:
        return cls(fs, folder, TypeAdapter(LogFacts).validate_json(read_whole(fs, f"{folder}/{FACTS}")))

    def finish(self) -> None:
        """Write the facts, which makes the log complete."""
        write_whole(self.fs, f"{self.folder}/{FACTS}", to_json(TypeAdapter(LogFacts).dump_python(self.facts, mode="json")))

    @property
    def shards(self) -> int:
        return len(self.facts.sizes)

    @cached_property
    def sizes(self) -> np.ndarray:
        """The rows of each shard in each training block, in validation and in test: int64 [S, blocks + 2]."""
        return np.array(self.facts.sizes, dtype=np.int64)

    @property
    def train_rows(self) -> int:
        return int(self.sizes[:, :-2].sum())

    @property
    def test_rows(self) -> int:
        return int(self.sizes[:, -1].sum())

    @property
    def users(self) -> Known:
        return self._known("users")

    @property
    def items(self) -> Known:
        return self._known("items")

    def all(self, context: ContextEncoder, user_count: int) -> "Share":
        return Share(self, range(self.shards), context, user_count)

    def of_worker(self, worker: Worker, context: ContextEncoder, user_count: int) -> "Share":
        """The shards of one of several workers."""
        return Share(self, range(worker.rank, self.shards, worker.world_size), context, user_count)

    def in_groups(self, rows: int, context: ContextEncoder, user_count: int) -> "Iterator[Share]":
        """All shards, in groups of about so many rows of the log, for work that needs whole users but not all at a time."""
        count = max(1, -(-int(self.sizes.sum()) // rows))
        for shards in np.array_split(np.arange(self.shards), min(count, self.shards)):
            yield Share(self, shards.tolist(), context, user_count)

    def _known(self, name: str) -> Known:
        table = self.file(f"{name}.arrow").read_all().combine_chunks()
        ids = table["id"].chunk(0) if table.num_rows else pa.array([], TEXT)
        return Known(ids, table["trained"].to_numpy(zero_copy_only=False).astype(bool))

    def file(self, name: str) -> pa.ipc.RecordBatchFileReader:
        """A file, mapped into memory. Its pages are given back when the last array that was read from it is.

        A file in an object store is copied to this machine first. Raises `DataError` for one that is damaged there.
        """
        return pa.ipc.open_file(pa.memory_map(f"{self._near(name)}/{name}"))

    def _near(self, name: str) -> str:
        """The folder on this machine that has the file."""
        if isinstance(self.fs, pafs.LocalFileSystem):
            return self.folder
        if name not in self._copied:
            digests = json.loads(read_whole(self.fs, f"{self.folder}/{MANIFEST}"))["files"]
            try:
                self._copied[name] = copied(self.fs, self.folder, {name: digests[name][1]}, copies_folder())
            except DamagedError as error:
                raise DataError(f"{error} is damaged (its checksum differs); run `rayrec encode CONFIG --force`") from error
        return self._copied[name]

    @cached_property
    def _copied(self) -> dict[str, str]:
        return {}


@dataclass(frozen=True)
class Share:
    """Some shards of an encoded log: what one worker has, or what one step of an evaluation reads."""

    log: EncodedLog
    shards: Sequence[int]
    context: ContextEncoder  # of the context fields that the examples shall have
    user_count: int  # user 0 included

    @cached_property
    def clicks(self) -> ClickHistory:
        """The clicks of the users of these shards; all other users have none."""
        tables = [self.log.file(clicks_file(shard)).read_all() for shard in self.shards]
        table = pa.concat_tables([CLICKS.empty_table(), *tables])
        user, item, at = (table[name].to_numpy() for name in CLICKS.names)
        return ClickHistory.of(user, item, at, self.user_count)

    @property
    def train(self) -> "ShardedExamples":
        """The training examples, which stay in their files."""
        return ShardedExamples(self)

    def train_in_memory(self) -> Examples:
        """The training examples in memory, block after block."""
        return self._examples(range(self.log.sizes.shape[1] - 2))[0]

    def validation(self) -> Examples:
        return self._examples([self.log.sizes.shape[1] - 2])[0]

    def test(self) -> tuple[Examples, np.ndarray]:
        """The test examples, and the number of each, in time order, among those of all shards: int32 [examples]."""
        return self._examples([self.log.sizes.shape[1] - 1])

    def _examples(self, sections: Sequence[int]) -> tuple[Examples, np.ndarray]:
        """Examples of these sections, in time order within each."""
        parts = []
        for section in sections:
            columns, row = self._section(section)
            order = np.argsort(row, kind="stable")
            parts.append([*(column[order] for column in columns), row[order]])
        *together, row = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Examples(*together), row

    def _section(self, section: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The columns of `Examples` of a section, shard after shard, and their `row`."""
        names = [*EXAMPLES.names, *(f"context_{name}" for name in self.context.fields)]
        batches = [self.log.file(examples_file(shard)).get_batch(section) for shard in self.shards]
        user, item, clicked, at, clicks, row, *context = (
            np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in batches]) for name in names
        )
        stacked = np.stack(context, 1) if context else np.empty((len(user), 0), np.int16)
        return (user, item, clicked, at, self.clicks.offsets[user] + clicks, stacked), row


@dataclass(frozen=True)
class ShardedExamples:
    """The training examples of a share, as an `ExampleSource` that reads one block at a time."""

    share: Share
    block_sizes: np.ndarray = field(init=False)  # of all shards

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_sizes", self.share.log.sizes[:, :-2].sum(axis=0))

    def __len__(self) -> int:
        return self.share.log.train_rows

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Block]:
        for index in indices:
            columns, row = self.share._section(index)
            yield Block(Columns(*(torch.from_numpy(column).to(device) for column in columns)), row)
