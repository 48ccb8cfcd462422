"""Streams the training examples of a log that does not fit into memory: Ray Data encodes it into one file for each block.

The log is read row group by row group, and only the clicks of its training part stay in memory. Every worker reads all blocks and
takes its share of each batch. A block of a million examples is a file of some 10 MB.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch

from rayrec.config import Config
from rayrec.data.blocks import Columns, block_count, block_indices
from rayrec.data.context import refuse_unknown_context
from rayrec.data.encoders import FittedEncoders
from rayrec.data.examples import LogEncoder, log_columns
from rayrec.data.loading import RankingData, joined_items, ranking_data
from rayrec.serving.cluster.connection import connect
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.parts import part_paths
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import ray

SIZES = "sizes.json"  # written when all blocks are there
READS_AHEAD = 2  # blocks


def training_data(workspace: Workspace, config: Config, folder: str) -> RankingData:
    """The data that a worker trains on.

    They are all in memory, unless the log has more training examples than `training.stream_above`: then `train` is streamed from
    the blocks that `write_blocks` wrote to `folder`, a path in the workspace's filesystem.
    """
    if not _too_large(workspace, config):
        return ranking_data(workspace, config.ranker, config.split)
    connect(config)
    log = LogFiles.of(workspace)
    encoders = _fit(workspace, config, log)
    rows = encoders.split
    later = pa.concat_tables(log.from_row(rows.train_end, [*log_columns(config.ranker), "request_id"]))
    examples, validation_rows = encoders.log_encoder(later), rows.validation_end - rows.train_end
    sizes = np.array(json.loads(read_whole(workspace.fs, f"{folder}/{SIZES}")))
    return RankingData(
        encoders,
        train=StreamedExamples(workspace.fs, folder, sizes),
        validation=examples.take(slice(0, validation_rows)),
        test=examples.take(slice(validation_rows, None)),
        test_log=later.slice(validation_rows),
    )


def write_blocks(workspace: Workspace, config: Config, folder: str) -> None:
    """Write the blocks that `training_data` will stream, if it will stream any and they are not there yet."""
    if _too_large(workspace, config) and not workspace.fs.get_file_info(f"{folder}/{SIZES}").is_file:
        connect(config)
        log = LogFiles.of(workspace)
        encoders = _fit(workspace, config, log)
        columns = log_columns(config.ranker)
        _write_block_files(workspace.fs, folder, log, encoders.log_encoder, encoders.split.train_end, columns)


@dataclass(frozen=True)
class StreamedExamples:
    """An `ExampleSource` whose blocks are Parquet files."""

    fs: pafs.FileSystem
    folder: str
    block_sizes: np.ndarray

    def __len__(self) -> int:
        return int(self.block_sizes.sum())

    def blocks(self, indices: Sequence[int], device: torch.device) -> Iterator[Columns]:
        """The blocks with these indices, the rows of each in time order; the next blocks are read ahead."""
        if not indices:
            return
        import ray.data

        from rayrec.stages.on_ray.data import quiet_context

        paths = [pa.table({"path": [_block_path(self.folder, index)]}) for index in indices]
        context = quiet_context()
        context.target_max_block_size = None  # a file is one block to Ray too, however large it is
        with ray.data.DataContext.current(context):
            # The tasks reserve no CPUs, because the workers that train may hold all of them.
            files = ray.data.from_arrow(paths).map_batches(
                _read_block,
                fn_args=(self.fs,),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=0,
                compute=ray.data.TaskPoolStrategy(size=READS_AHEAD),
            )
            for table in files.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                yield _columns(table, device)


@dataclass(frozen=True)
class LogFiles:
    """The row groups of the interactions, in time order."""

    fs: pafs.FileSystem
    groups: list[tuple[str, int, int, int]]  # path, index in the file, first row, row behind the last
    names: list[str]  # of all columns

    @classmethod
    def of(cls, workspace: Workspace) -> "LogFiles":
        groups: list[tuple[str, int, int, int]] = []
        names, first = [], 0
        for path in part_paths(workspace.fs, f"{workspace.folder('ingest')}/interactions"):
            facts = pq.read_metadata(path, filesystem=workspace.fs)
            names = facts.schema.to_arrow_schema().names
            for group in range(facts.num_row_groups):
                last = first + facts.row_group(group).num_rows
                groups.append((path, group, first, last))
                first = last
        return cls(workspace.fs, groups, names)

    def __call__(self, columns: list[str]) -> Iterator[pa.Table]:
        return self.from_row(0, columns)

    def from_row(self, row: int, columns: list[str]) -> Iterator[pa.Table]:
        """The rows from `row` on, piece by piece."""
        for path, group, first, last in self.groups:
            if last > row:
                yield _read_group(self.fs, path, group, columns).slice(max(row - first, 0))


def _fit(workspace: Workspace, config: Config, log: LogFiles) -> FittedEncoders:
    refuse_unknown_context(config.ranker.context_fields, log.names)
    items = joined_items(workspace, config.ranker)
    return FittedEncoders.fit(log, items, workspace.read_if_there("users"), config.ranker, config.split)


def _write_block_files(fs: pafs.FileSystem, folder: str, log: LogFiles, encoder: LogEncoder, rows: int, columns: list[str]) -> None:
    """Encode the first `rows` rows of the log, and write the examples of each block to a file."""
    import ray.data

    from rayrec.stages.on_ray.data import quiet_context

    fs.create_dir(folder, recursive=True)
    groups = [
        pa.table({"path": [path], "group": [group], "first": [first], "rows": [min(last, rows) - first]})
        for path, group, first, last in log.groups
        if first < rows
    ]
    sizes = np.zeros(block_count(rows), dtype=np.int64)
    with ray.data.DataContext.current(quiet_context()), ExitStack() as files:
        encoded = ray.data.from_arrow(groups).map_batches(
            _encode, fn_args=(fs, columns, [ray.put(encoder)], len(sizes)), batch_size=None, batch_format="pyarrow"
        )
        writers: list[pq.ParquetWriter] = []
        for table in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            if not writers:
                schema = table.schema.remove(table.schema.get_field_index("block"))
                paths = (_block_path(folder, index) for index in range(len(sizes)))
                writers = [files.enter_context(pq.ParquetWriter(path, schema, filesystem=fs)) for path in paths]
            ends = np.searchsorted(table["block"].to_numpy(), np.arange(len(sizes)), side="right")
            for writer, end, size in zip(writers, ends, np.diff(ends, prepend=0), strict=True):
                writer.write_table(table.slice(end - size, size).drop_columns("block"))
            sizes += np.diff(ends, prepend=0)
    write_whole(fs, f"{folder}/{SIZES}", json.dumps(sizes.tolist()).encode())


def _encode(task: pa.Table, fs: pafs.FileSystem, columns: list[str], encoder: "list[ray.ObjectRef]", blocks: int) -> pa.Table:
    """The examples of one row group, ordered by block and within a block by time."""
    import ray

    group = task.to_pylist()[0]
    log = _read_group(fs, group["path"], group["group"], columns).slice(0, group["rows"])
    examples = ray.get(encoder[0])(log)
    block = block_indices(group["first"], group["first"] + group["rows"], blocks)
    named = dict(zip(Columns._fields[:-1], examples.columns, strict=False)) | {"block": block}
    named |= {f"context_{index}": values for index, values in enumerate(examples.context.T)}
    return pa.table(named).take(pa.array(np.argsort(block, kind="stable")))


def _read_group(fs: pafs.FileSystem, path: str, group: int, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path, filesystem=fs) as file:
        return file.read_row_group(group, columns=columns)


def _read_block(task: pa.Table, fs: pafs.FileSystem) -> pa.Table:
    return pq.read_table(task["path"][0].as_py(), filesystem=fs).combine_chunks()


def _columns(table: pa.Table, device: torch.device) -> Columns:
    tensors = {name: torch.from_numpy(table[name].to_numpy().copy()).to(device) for name in table.column_names}
    context = [tensors.pop(name) for name in table.column_names if name.startswith("context_")]
    no_context = torch.empty(table.num_rows, 0, dtype=torch.int16, device=device)
    return Columns(**tensors, context=torch.stack(context, 1) if context else no_context)


def _block_path(folder: str, index: int) -> str:
    return f"{folder}/block-{index:05}.parquet"


def _too_large(workspace: Workspace, config: Config) -> bool:
    """Whether the log has more training examples than are held in memory."""
    return workspace.rows("interactions") * (1 - config.split.validation - config.split.test) > config.training.stream_above
