"""Pieces of work on Ray's workers, a limited number of them at a time."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import ray

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving.cluster.connection import connect

Result = TypeVar("Result")
AHEAD = 2  # pieces of work for each CPU that are with Ray at a time


def on_workers(config: Config) -> Callable[[Sequence[Callable[[], Result]]], Iterator[tuple[int, Result]]]:
    """Joins or starts Ray. Returns what does pieces of work there, one a CPU, and yields the index of each with its result."""
    connect(config)
    return work_on


def work_on(
    work: Sequence[Callable[[], Result]], cpus: float = 1, gpus: float = 0, at_once: int | None = None
) -> Iterator[tuple[int, Result]]:
    """In the order in which they end. Raises what a piece of work raises, if it is an error of ours.

    `cpus` and `gpus` are reserved for each piece. No more than `at_once` are with Ray at a time.
    """
    at_once = at_once or AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(enumerate(work))
    running: dict[ray.ObjectRef, int] = {}
    try:
        while True:
            for number, each in itertools.islice(waiting, at_once - len(running)):
                running[_work.options(num_cpus=cpus, num_gpus=gpus).remote(each, os.getcwd())] = number
            if not running:
                return
            (done,), _ = ray.wait([*running], num_returns=1)
            yield running.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RayrecError | OSError):
            raise error.cause from None
        raise
    finally:
        for each in running:
            ray.cancel(each)


def share_of_cpus(concurrent: int) -> int:
    """The CPUs of each of several trainings at the same time, which can't span machines."""
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return max(1, int(min(max(cpus), sum(cpus) // concurrent)))


@ray.remote
def _work(each: Callable[[], Result], folder: str) -> Result:
    threads = pa.cpu_count()
    pa.set_cpu_count(1)  # as many workers as CPUs work beside this one
    # Relative paths in a config start from where the command was called.
    with contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
        try:
            return each()
        finally:
            pa.set_cpu_count(threads)
