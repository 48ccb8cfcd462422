"""Ray Data as the stages use it: its settings, a pool of processes that decode media, and work on shares of part files."""

import logging
import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
import ray.data

from rayrec.features.media.isolation import IsolatedDecoder, RowDecoder

TASKS_PER_CPU = 2  # at most, so that a table of many files does not become as many tasks


def quiet_context(in_order: bool = True) -> "ray.data.DataContext":
    """For `with ray.data.DataContext.current(...)`: Ray Data shows no progress of its own.

    If rows need not stay in order, one that takes long does not hold up those behind it.
    """
    for chatty in ("progress", "execution.streaming_executor"):
        logging.getLogger(f"ray.data._internal.{chatty}").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = in_order
    return context


class Decoder:
    """The actor that decodes media. Not a task: tasks move between processes, each of which takes 7 s of CPU for its imports."""

    def __init__(self, decode: RowDecoder, settings: Any, timeout_s: float) -> None:
        self.decode = IsolatedDecoder(decode, settings, timeout_s)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return self.decode(rows)


def decoded(
    rows: pa.Table,
    decode: RowDecoder,
    settings: Any,
    block: int,
    pool: tuple[int, int],
    timeout_s: float,
) -> "ray.data.Dataset":
    """The table `decode(rows, settings)`, computed in blocks of so many rows by a pool of (min, max) decoders with one CPU each.

    A file that kills its decoder, or takes longer than `timeout_s` seconds, becomes a row that failed. To be called and consumed
    inside `quiet_context`.
    """
    blocks = [rows.slice(start, block) for start in range(0, rows.num_rows, block)]
    return ray.data.from_arrow(blocks).map_batches(
        Decoder,
        fn_constructor_args=(decode, settings, timeout_s),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=min(pool[0], len(blocks)), max_size=pool[1]),
        num_cpus=1,
    )


def map_files(work: Callable[[int, list[str], Any], bytes], paths: list[str], share: int, shared: Any) -> list[bytes]:
    """`work(number, paths, shared)` for each share of the files, with one task for each share.

    A share has `share` files, or more where there would otherwise be more than `TASKS_PER_CPU`. `shared` goes to the tasks through
    Ray's object store, once for each node.
    """
    cpus = int(ray.cluster_resources().get("CPU", 1))
    size = max(share, math.ceil(len(paths) / (TASKS_PER_CPU * max(1, cpus))))
    shares = [
        pa.table({"path": paths[start : start + size], "number": [number] * len(paths[start : start + size])})
        for number, start in enumerate(range(0, len(paths), size))
    ]
    with ray.data.DataContext.current(quiet_context()):
        done = ray.data.from_arrow(shares).map_batches(
            _work_on_share, batch_size=None, batch_format="pyarrow", fn_args=(work, [ray.put(shared)])
        )
        return pa.concat_tables(ray.get(done.to_arrow_refs()))["result"].to_pylist()


def _work_on_share(share: pa.Table, work: Callable[[int, list[str], Any], bytes], shared: list["ray.ObjectRef[Any]"]) -> pa.Table:
    result = work(share["number"][0].as_py(), share["path"].to_pylist(), ray.get(shared[0]))
    return pa.table({"result": pa.array([result], pa.large_binary())})
