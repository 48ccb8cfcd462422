"""What one worker, or one step of an evaluation, reads of an encoded log: the examples and clicks of some of its shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import torch

from rayrec.config import Goal
from rayrec.config.goals import CLICKED
from rayrec.data.context import ContextEncoder
from rayrec.data.errors import DataError
from rayrec.data.examples import Examples
from rayrec.data.goals import goal_labels
from rayrec.data.history import ClickHistory
from rayrec.data.pages import NO_PAGES, Pages
from rayrec.data.shards import CLICKS, EXAMPLES, EncodedLog, clicks_file, examples_file, label_column, pages_file
from rayrec.data.shuffling import Block, Columns
from rayrec.training.exchange import Worker

GROUP_ROWS = 2_000_000  # of the log, which work on whole users reads at a time


@dataclass(frozen=True)
class Share:
    """Some shards of an encoded log: what one worker has, or what one step of an evaluation reads."""

    log: EncodedLog
    shards: Sequence[int]
    context: ContextEncoder  # of the context fields that the examples shall have
    user_count: int  # user 0 included
    goals: Sequence[Goal] = ()  # whose labels the examples shall have

    @classmethod
    def of_all(cls, log: EncodedLog, context: ContextEncoder, user_count: int, goals: Sequence[Goal] = ()) -> Self:
        return cls(log, range(log.shards), context, user_count, goals)

    @classmethod
    def of_worker(
        cls, log: EncodedLog, worker: Worker, context: ContextEncoder, user_count: int, goals: Sequence[Goal] = ()
    ) -> Self:
        """The shards of one of several workers."""
        return cls(log, range(worker.rank, log.shards, worker.world_size), context, user_count, goals)

    @classmethod
    def in_groups(
        cls, log: EncodedLog, rows: int, context: ContextEncoder, user_count: int, goals: Sequence[Goal] = ()
    ) -> Iterator[Self]:
        """All shards, in groups of about so many rows of the log, for work that needs whole users but not all at a time."""
        count = max(1, -(-int(log.sizes.sum()) // rows))
        for shards in np.array_split(np.arange(log.shards), min(count, log.shards)):
            yield cls(log, shards.tolist(), context, user_count, goals)

    @cached_property
    def clicks(self) -> ClickHistory:
        """The clicks of the users of these shards; all other users have none."""
        tables = [self.log.file(clicks_file(shard)).read_all() for shard in self.shards]
        table = pa.concat_tables([CLICKS.empty_table(), *tables])
        user, item, at = (table[name].to_numpy() for name in CLICKS.names)
        return ClickHistory.of(user, item, at, self.user_count)

    def pages(self) -> Pages:
        """The pages of the training split. Raises `DataError` if the log was encoded without them."""
        if not self.log.facts.pages:
            raise DataError("training.negatives.by: the log was encoded without its pages; run `rayrec encode CONFIG`")
        return Pages.merged([NO_PAGES, *(Pages.of_table(self.log.file(pages_file(shard)).read_all()) for shard in self.shards)])

    @property
    def train(self) -> "ShardedExamples":
        """The training examples, which stay in their files."""
        return ShardedExamples(self)

    def train_since(self, at: int) -> "ShardedExamples":
        """The training examples of a time (UTC ms) and later ones. No more than these is read."""
        return ShardedExamples(self, at)

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

    @cached_property
    def _translation(self) -> dict[str, np.ndarray]:
        """For context fields whose values have other numbers in `context` than in the files: the number of each."""
        return self.log.facts.context.translation(self.context)

    def _section(self, section: int, first: np.ndarray | None = None) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The columns of `Examples` of a section, shard after shard, and their `row`; of each shard from its row `first` on."""
        names = [*EXAMPLES.names, *(f"context_{name}" for name in self.context.fields)]
        batches = [self.log.file(examples_file(shard)).get_batch(section) for shard in self.shards]
        if first is not None:
            batches = [batch.slice(row) for batch, row in zip(batches, first[self.shards].tolist(), strict=True)]
        user, item, clicked, at, clicks, row, *context = (
            np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in batches]) for name in names
        )
        for number, name in enumerate(self.context.fields):
            if name in self._translation:
                context[number] = self._translation[name][context[number]]
        stacked = np.stack(context, 1) if context else np.empty((len(user), 0), np.int16)
        found = user, item, clicked, at, self.clicks.offsets[user] + clicks, stacked
        return (found if not self.goals else (*found, self._labels(batches, clicked))), row

    def _labels(self, batches: Sequence[pa.RecordBatch], clicked: np.ndarray) -> np.ndarray:
        """The labels of the goals of these examples: float32 [examples, G]. Raises `DataError` if they were not encoded."""
        columns = {CLICKED: clicked}
        for name in {goal.label for goal in self.goals} - {CLICKED}:
            if name not in self.log.facts.labels:
                raise DataError(f"ranker.goals: the log was encoded without the column {name!r}; run `rayrec encode CONFIG`")
            parts = [batch.column(label_column(name)).to_numpy() for batch in batches]
            columns[name] = np.concatenate(parts)
        return goal_labels(self.goals, columns)


@dataclass(frozen=True)
class ShardedExamples:
    """The training examples of a share, as an `ExampleSource` that reads one block at a time."""

    share: Share
    since: int = 0  # UTC ms; examples from before are left out

    @cached_property
    def first(self) -> np.ndarray:
        """The first row of each shard in each block that is not left out: int64 [S, blocks]."""
        log, blocks = self.share.log, self.share.log.sizes.shape[1] - 2
        if not self.since:
            return np.zeros((log.shards, blocks), np.int64)
        files = [log.file(examples_file(shard)) for shard in range(log.shards)]
        at = ([file.get_batch(block).column("at").to_numpy() for block in range(blocks)] for file in files)
        return np.array([[np.searchsorted(times, self.since) for times in shard] for shard in at])  # which are in their order

    @cached_property
    def block_sizes(self) -> np.ndarray:  # of all shards
        return (self.share.log.sizes[:, :-2] - self.first).sum(axis=0)

    def __len__(self) -> int:
        return int(self.block_sizes.sum())

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Block]:
        left_out = self.first.sum(axis=0)  # of all shards, so that the rows of a block are counted from 0 again
        for index in indices:
            columns, row = self.share._section(index, self.first[:, index])
            yield Block(Columns(*(torch.from_numpy(column).to(device) for column in columns)), row - np.int32(left_out[index]))
