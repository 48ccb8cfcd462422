"""Pieces of work whose results a stage keeps, each as a small JSON file under a fingerprint of everything that it depends on.

A stage that was killed therefore goes on with the pieces that are missing, and any other version of it, for instance with further
arms, takes over those that are as they were. Whatever goes wrong in one piece, the results of the others are still wanted.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow.fs as pafs
from pydantic import TypeAdapter

from rayrec import __version__, tables
from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving.cluster.connection import connect
from rayrec.serving.cluster.room import await_room
from rayrec.stages.execution import Executor, in_this_process
from rayrec.workspace.files import from_json, read_whole, to_json, with_nan, write_whole
from rayrec.workspace.stage import StageRun

RUNS = "runs"  # the folder in that of a version
FORMAT = 2  # of the results, and of what the same settings mean; results of an earlier one are measured again
PROCESSES = "comparison: processes"  # as errors name them; `training.workers` is for `rayrec train`
Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece(Generic[Result]):
    """A piece of work, and what the log calls it."""

    name: str
    work: Callable[[], Result]


@dataclass(frozen=True)
class Failed:
    """A piece of work without a result."""

    reason: str


def results_of(
    run: StageRun, pieces: Mapping[str, Piece[Result]], kind: TypeAdapter[Result], execute: Executor
) -> dict[str, Result | Failed]:
    """The result of each piece of work, by its fingerprint. What is not kept is done, in this order."""
    found: dict[str, Result | Failed] = {}
    elsewhere = _kept_elsewhere(run)
    for fingerprint in pieces:
        if (kept := _kept(run, fingerprint, elsewhere)) is not None:
            found[fingerprint] = kind.validate_python(with_nan(from_json(kept)))
    missing = [fingerprint for fingerprint in pieces if fingerprint not in found]
    attempts = [functools.partial(_attempt, pieces[fingerprint]) for fingerprint in missing]
    for number, result in execute(attempts) if attempts else ():
        found[missing[number]] = result
        if not isinstance(result, Failed):
            write_whole(run.fs, _path(run.folder, missing[number]), to_json(kind.dump_python(result, mode="json"), indent=1))
    return found


@dataclass(frozen=True)
class Place:
    """Where a process finds what it trains on."""

    workspace: str  # its URI
    log: str  # the folder of the encoded log
    folder: str  # that of the stage's version

    @classmethod
    def of(cls, run: StageRun) -> "Place":
        return cls(run.workspace.uri, run.input_folder("encode"), run.folder)


def fingerprint(run: StageRun, *depends: Any) -> str:
    """A hash of what a piece of work depends on: these plain values, and the versions of all tables that the stage may read."""
    names = [*run.stage.reads, *(name for name in run.stage.may_read if run.workspace.has(name))]
    stages = sorted({tables.spec_of(name).stage for name in names})
    versions = [manifest.version for manifest in map(run.workspace.manifest, stages) if manifest]
    return hashlib.sha256(json.dumps([__version__, FORMAT, versions, *depends], sort_keys=True).encode()).hexdigest()[:16]


def trainings(config: Config, arms: Sequence[Config], concurrent: int) -> Executor:
    """Does the trainings of these arms one after the other in this process, or, for several at a time or on GPUs, on Ray."""
    gpus = max(arm.training.gpus_per_worker for arm in arms)
    if concurrent == 1 and not gpus:
        return in_this_process
    from rayrec.stages.on_ray.working import share_of_cpus, work_on

    connect(config)
    if gpus:
        await_room(PROCESSES, 1, gpus=gpus)
    return functools.partial(work_on, cpus=share_of_cpus(concurrent), gpus=gpus, at_once=concurrent)


def _attempt(piece: Piece[Result]) -> Result | Failed:
    try:
        return piece.work()
    except Exception as error:
        log.warning("%s: %s", piece.name, error, exc_info=not isinstance(error, RayrecError))
        return Failed(str(error) if isinstance(error, RayrecError) else f"{type(error).__name__}: {error}")


def _kept(run: StageRun, fingerprint: str, elsewhere: Mapping[str, str]) -> bytes | None:
    """The result as an earlier run of the stage kept it, in its version or `elsewhere`."""
    for path in filter(None, (_path(run.folder, fingerprint), elsewhere.get(fingerprint))):
        try:
            kept = read_whole(run.fs, path)
        except FileNotFoundError:  # or another run has just deleted an old version
            continue
        write_whole(run.fs, _path(run.folder, fingerprint), kept)
        return kept
    return None


def _kept_elsewhere(run: StageRun) -> dict[str, str]:
    """The results in the other versions of the stage, also in those of runs that were killed: fingerprint -> path."""
    listed = [run.fs.get_file_info(pafs.FileSelector(f"{folder}/{RUNS}", allow_not_found=True)) for folder in run.other_folders]
    return {item.base_name.removesuffix(".json"): item.path for found in listed for item in found if item.extension == "json"}


def _path(folder: str, fingerprint: str) -> str:
    return f"{folder}/{RUNS}/{fingerprint}.json"
