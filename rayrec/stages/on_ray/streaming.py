"""Training examples of a log that does not fit into memory: encoded by Ray Data into a file for each block, and streamed.

The log is read row group by row group; of its training part nothing stays in memory but the clicks. Every worker reads all blocks
and takes its share of each batch: a block of a million examples is a file of some 10 MB.
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
from rayrec.data.blocks import Columns, block_count, block_numbers
from rayrec.data.context import refuse_unknown_context
from rayrec.data.examples import FittedEncoders, LogEncoder, RankingData, log_columns
from rayrec.data.loading import joined_items, ranking_data
from rayrec.stages.on_ray.cluster import connect
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.parts import part_paths
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import ray

SIZES = "sizes.json"  # written when all blocks are there
READS_AHEAD = 2  # blocks


def training_data(workspace: Workspace, config: Config, folder: str) -> RankingData:
    """What a worker trains on: all in memory, or with `train` streamed from what `write_blocks` left in `folder` (inside the
    workspace's filesystem) where the log has more training examples than `training.stream_above`."""
    if not _too_large(workspace, config):
        return ranking_data(workspace, config.ranker, config.split)
    connect(config)  # for reading the blocks
    log = LogFiles.of(workspace)
    prepared = _prepare(workspace, config, log)
    trained, validated, _ = prepared.ends
    later = pa.concat_tables(log.behind(trained, [*log_columns(config.ranker), "request_id"]))
    examples, validation = prepared.encoder(later), slice(0, validated - trained)
    sizes = np.array(json.loads(read_whole(workspace.fs, f"{folder}/{SIZES}")))
    return RankingData(
        **prepared.tables,
        train=StreamedExamples(workspace.fs, folder, sizes),
        validation=examples.take(validation),
        test=examples.take(slice(validation.stop, None)),
        test_log=later.slice(validation.stop),
    )


def write_blocks(workspace: Workspace, config: Config, folder: str) -> None:
    """Write the blocks that `training_data` streams, where it will and they are not there yet."""
    if _too_large(workspace, config) and not workspace.fs.get_file_info(f"{folder}/{SIZES}").is_file:
        connect(config)
        log = LogFiles.of(workspace)
        prepared = _prepare(workspace, config, log)
        _write_block_files(workspace.fs, folder, log, prepared.encoder, prepared.ends[0], log_columns(config.ranker))


@dataclass(frozen=True)
class StreamedExamples:
    """A `Source` whose blocks are Parquet files."""

    fs: pafs.FileSystem
    folder: str
    block_sizes: np.ndarray

    def __len__(self) -> int:
        return int(self.block_sizes.sum())

    def blocks(self, numbers: Sequence[int], device: torch.device) -> Iterator[Columns]:
        """The blocks of these numbers, their rows in time order; the next ones are read meanwhile."""
        if not numbers:
            return
        import ray.data

        from rayrec.stages.on_ray.data import quiet_context

        paths = [pa.table({"path": [_block_path(self.folder, number)]}) for number in numbers]
        context = quiet_context()
        context.target_max_block_size = None  # a file is one block of Ray's too, however large
        with ray.data.DataContext.current(context):
            # Without CPUs of their own: workers that train may hold all there are.
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
    groups: list[tuple[str, int, int, int]]  # path, number in the file, first row, row behind the last
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
        return self.behind(0, columns)

    def behind(self, row: int, columns: list[str]) -> Iterator[pa.Table]:
        """The rows from `row` on."""
        for path, group, first, last in self.groups:
            if last > row:
                yield _read_group(self.fs, path, group, columns).slice(max(row - first, 0))


def _prepare(workspace: Workspace, config: Config, log: LogFiles) -> FittedEncoders:
    refuse_unknown_context(config.ranker.context_fields, log.names)
    items = joined_items(workspace, config.ranker)
    return FittedEncoders.of(log, items, workspace.read_if_there("users"), config.ranker, config.split)


def _write_block_files(fs: pafs.FileSystem, folder: str, log: LogFiles, encoder: LogEncoder, rows: int, columns: list[str]) -> None:
    fs.create_dir(folder, recursive=True)
    groups = [
        pa.table({"path": [path], "group": [group], "first": [first], "rows": [min(last, rows) - first]})
        for path, group, first, last in log.groups
        if first < rows
    ]
    import ray.data

    from rayrec.stages.on_ray.data import quiet_context

    sizes = np.zeros(block_count(rows), dtype=np.int64)
    with ray.data.DataContext.current(quiet_context()), ExitStack() as files:
        encoded = ray.data.from_arrow(groups).map_batches(
            _encode, fn_args=(fs, columns, [ray.put(encoder)], len(sizes)), batch_size=None, batch_format="pyarrow"
        )
        writers: list[pq.ParquetWriter] = []
        for table in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            if not writers:
                schema = table.schema.remove(table.schema.get_field_index("block"))
                paths = (_block_path(folder, number) for number in range(len(sizes)))
                writers = [files.enter_context(pq.ParquetWriter(path, schema, filesystem=fs)) for path in paths]
            ends = np.searchsorted(table["block"].to_numpy(), np.arange(len(sizes)), side="right")
            for writer, end, size in zip(writers, ends, np.diff(ends, prepend=0), strict=True):
                writer.write_table(table.slice(end - size, size).drop_columns("block"))
            sizes += np.diff(ends, prepend=0)
    write_whole(fs, f"{folder}/{SIZES}", json.dumps(sizes.tolist()).encode())


def _encode(task: pa.Table, fs: pafs.FileSystem, columns: list[str], encoder: "list[ray.ObjectRef]", blocks: int) -> pa.Table:
    """The examples of one row group by block, within a block in time order."""
    import ray

    group = task.to_pylist()[0]
    log = _read_group(fs, group["path"], group["group"], columns).slice(0, group["rows"])
    examples = ray.get(encoder[0])(log)
    block = block_numbers(group["first"], group["first"] + group["rows"], blocks)
    named = dict(zip(Columns._fields[:-1], examples.columns, strict=False)) | {"block": block}
    named |= {f"context_{place}": values for place, values in enumerate(examples.context.T)}
    return pa.table(named).take(pa.array(np.argsort(block, kind="stable")))


def _read_group(fs: pafs.FileSystem, path: str, group: int, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path, filesystem=fs) as file:
        return file.read_row_group(group, columns=columns)


def _read_block(task: pa.Table, fs: pafs.FileSystem) -> pa.Table:
    return pq.read_table(task["path"][0].as_py(), filesystem=fs).combine_chunks()


def _columns(table: pa.Table, device: torch.device) -> Columns:
    tensors = {name: torch.from_numpy(table[name].to_numpy().copy()).to(device) for name in table.column_names}
    context = [tensors.pop(name) for name in table.column_names if name.startswith("context_")]
    nothing = torch.empty(table.num_rows, 0, dtype=torch.int16, device=device)
    return Columns(**tensors, context=torch.stack(context, 1) if context else nothing)


def _block_path(folder: str, number: int) -> str:
    return f"{folder}/block-{number:05}.parquet"


def _too_large(workspace: Workspace, config: Config) -> bool:
    return workspace.rows("interactions") * (1 - config.split.validation - config.split.test) > config.training.stream_above
