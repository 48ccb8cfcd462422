"""A log as it is encoded once: examples and clicks in S shards by user, in files that any number of workers share.

    shards.json                what there is: `LogFacts`
    users.arrow, items.arrow   their ids by index, and whether the training split has them
    shard-00000.examples       25 bytes an example, 2 or 4 for each context field and 4 for each label beside the click: a batch for
                               each block of the training split, one for validation and one for test; rows in time order
    shard-00000.clicks         the clicks of the shard's users, sorted by user and time
    shard-00000.pages          the impressions of the training split by page, if negatives are drawn from pages
    daily.arrow                how often each item was shown and clicked on each day, over all shards

A user is in one shard, with all impressions and clicks, so that a worker that has some shards needs nothing of the others. The
files are in Arrow's format, uncompressed: on a local disk they are mapped into memory piece by piece, and the operating system
keeps one copy for all processes. No process needs to hold more than a block of its training examples.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import TypeAdapter

from rayrec.data.context import ContextEncoder
from rayrec.data.errors import DataError
from rayrec.data.popularity import DailyCounts
from rayrec.data.split import SplitBy
from rayrec.tables import TEXT
from rayrec.workspace.files import read_whole, to_json, write_whole
from rayrec.workspace.node_copies import DamagedError, copied, copies_folder
from rayrec.workspace.versions import MANIFEST

DAILY_COUNTS = "daily.arrow"
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
class Known:
    """The ids of users or items in the order of their indices, which count from 1."""

    ids: pa.Array  # large_string [n]
    trained: np.ndarray  # bool [n], whether the training split has it


@dataclass(frozen=True)
class LogFacts:
    """The content of shards.json."""

    sizes: list[list[int]]  # of each shard: the rows of each training block, of validation and of test
    test_at: int  # UTC ms, when the test begins
    context: ContextEncoder  # of all context fields that were encoded
    split_by: SplitBy = "time"
    clicks_only: bool = False  # whether the training split has no impression that was not clicked
    pages: bool = False  # whether there are files of pages
    validation_at: int = 0  # UTC ms, when the training split has ended
    labels: list[str] = field(default_factory=list)  # the columns beside `clicked` from which goals are learned


def examples_file(shard: int) -> str:
    return f"shard-{shard:05}.examples"


def clicks_file(shard: int) -> str:
    return f"shard-{shard:05}.clicks"


def pages_file(shard: int) -> str:
    return f"shard-{shard:05}.pages"


def label_column(name: str) -> str:
    """The column of a shard's examples that has a column of the log from which goals are learned: float32, NaN for null."""
    return f"label_{name}"


def example_schema(context: ContextEncoder, labels: Iterable[str] = ()) -> pa.Schema:
    """The columns of a shard's examples with their context fields and labels."""
    kind = pa.from_numpy_dtype(context.kind)
    more = [pa.field(label_column(name), pa.float32()) for name in labels]
    return pa.schema([*EXAMPLES, *(pa.field(f"context_{name}", kind) for name in context.fields), *more])


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

    @property
    def daily(self) -> DailyCounts:
        """The counts of all users. Like everything here, they are mapped into memory."""
        return DailyCounts.of_table(self.file(DAILY_COUNTS).read_all())

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
