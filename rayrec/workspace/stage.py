"""What a stage is, and how it is run."""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import __version__, tables
from rayrec.config import Config
from rayrec.workspace.parts import part_paths, stream_files
from rayrec.workspace.stores import in_words, is_of_the_store
from rayrec.workspace.versions import MARKER, Manifest, Workspace, WorkspaceError

FULL = (errno.ENOSPC, errno.EDQUOT)
MAX_SHOWN = 5  # rejects in an error
NEEDED, OPTIONAL = "needed", "optional"  # values of `Stage.log`
NO_LOG = "the log has no impressions, so there is nothing to train on yet"
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One step on the way from raw videos to a bundle: the tables it reads and writes, the settings it depends on, and its work.

    The tables of `reads` must be there; those of `may_read` are read if they are. `sources` returns facts (size and time of change)
    about files outside the workspace: when one changes, the stage is redone. `check` raises a `ConfigError` for settings with which
    the stage can't work, as far as this is known before any work. `log` says what a stage needs of the log: NEEDED, it can't work
    without impressions; OPTIONAL, without them it works alone, without the stages in `after` and `first`. A stage that `shares`
    part files with its previous version checks their contents itself where it reads them; of other stages all files of that version
    are checked before they begin.
    """

    name: str
    work: "Callable[[StageRun], None]"
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # stages whose files (not tables) are read
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    sources: "Callable[[Workspace, Config], list[Any]]" = lambda workspace, config: []
    check: Callable[[Config], None] = lambda config: None
    shares: bool = False
    log: str = ""
    first: "tuple[Stage, ...]" = ()  # stages that are run before this one unless their versions are valid


@dataclass
class StageRun:
    """One run of a stage. It reads only the tables that the stage declares, and writes into its own unfinished version."""

    workspace: Workspace
    stage: Stage
    config: Config
    version: str
    settings: dict[str, Any]
    previous: Manifest | None  # the version that this one will replace; None with `--force`, so that nothing is taken over
    alone: bool = False  # whether nothing may be taken over from any other version
    rows_in: int = 0
    rows_out: int = 0
    written: dict[str, int] = field(default_factory=dict)
    facts: dict[str, tuple[int, str]] = field(default_factory=dict)  # size and SHA-256 of files for which a worker gave them
    shared: dict[str, str] = field(default_factory=dict)  # files that stay in another version's folder: path -> version

    @property
    def fs(self) -> pafs.FileSystem:
        return self.workspace.fs

    @property
    def folder(self) -> str:
        """The path (inside `fs`) of the version being made."""
        return f"{self.workspace.root}/{self.stage.name}/{self.version}"

    @property
    def previous_folder(self) -> str | None:
        """The path of the version that this one will replace. What it holds may be taken over instead of made again."""
        return f"{self.workspace.root}/{self.stage.name}/{self.previous.version}" if self.previous else None

    @property
    def other_folders(self) -> list[str]:
        """The paths of the other versions of the stage, finished or not, of which something may be taken over."""
        if self.alone:
            return []
        found = self.fs.get_file_info(pafs.FileSelector(f"{self.workspace.root}/{self.stage.name}", allow_not_found=True))
        return sorted(item.path for item in found if item.type == pafs.FileType.Directory and item.path != self.folder)

    def previous_parts(self, name: str) -> dict[str, str]:
        """The part files of a table in the version that this one will replace: the path in that version -> the path inside `fs`."""
        if self.previous is None or name not in self.previous.tables:
            return {}
        paths = sorted(path for path in self.previous.files if path.startswith(f"{name}/") and path.endswith(".parquet"))
        return {path: self.workspace.place(self.previous, path) for path in paths}

    def share(self, path: str) -> None:
        """Let a part file of `previous_parts` belong to this version as well, without a copy. No other may take its name."""
        assert self.previous is not None
        self.shared[path] = self.previous.shared.get(path, self.previous.version)

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.read(table, columns)

    def read_if_there(self, table: str, columns: list[str] | None = None) -> pa.Table | None:
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.read_if_there(table, columns)

    def parts(self, table: str) -> list[str]:
        """The paths of a table's part files, in order. Raises `WorkspaceError` if one of them is damaged."""
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.parts(table)

    def part_digests(self, table: str) -> dict[str, str]:
        """The SHA-256 that each of these files had when it was written, by its path; no file is read."""
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.part_digests(table)

    def input_folder(self, stage: str) -> str:
        """The folder of another stage's current version, for reading files (not tables) from it.

        Raises `WorkspaceError` if one of its files is damaged.
        """
        if stage not in self.stage.after:
            raise ValueError(f"stage {self.stage.name!r} does not declare that it reads the files of {stage!r}")
        return self.workspace.check(stage)

    def write(self, name: str, table: pa.Table) -> None:
        """Validate a table and write it as one Parquet file."""
        self._check_declared(name, (*self.stage.writes, "rejects"))
        table = tables.validate(name, table)
        self._check_lock()
        self.fs.create_dir(f"{self.folder}/{name}", recursive=True)
        pq.write_table(table, f"{self.folder}/{name}/part-0.parquet", filesystem=self.fs, compression="zstd")
        self.written[name] = table.num_rows

    def written_in_parts(self, name: str) -> int:
        """Validate a table that the stage has written as part files, one at a time. Returns its number of rows."""
        self._check_declared(name, (*self.stage.writes, "rejects"))
        key = list(tables.spec_of(name).key)
        parts = (tables.validate(name, part) for part in stream_files(self.fs, part_paths(self.fs, f"{self.folder}/{name}"), name))
        keys = pa.concat_tables([tables.empty(name).select(key), *(part.select(key) for part in parts)])
        tables.refuse(name, keys, tables.repeats(name, keys))
        self.written[name] = keys.num_rows
        return self.written[name]

    def record_parts(self, name: str, rows: int) -> None:
        """Record a table whose part files, with so many rows in all, were validated when they were written."""
        self._check_declared(name, (*self.stage.writes, "rejects"))
        self.written[name] = rows

    def write_file(self, name: str, data: bytes) -> None:
        path = f"{self.folder}/{name}"
        self._check_lock()
        self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self.fs.open_output_stream(path) as stream:
            stream.write(data)

    def count(self, rows_in: int, rows_out: int, rejects: pa.Table | None = None) -> None:
        """Record the counts and write the rejects.

        Raises `WorkspaceError` if too many rows are bad or none is left. It shows the first ones and names the folder of them all.
        """
        self.rows_in, self.rows_out = rows_in, rows_out
        if rejects is not None:
            self.write("rejects", rejects)
            self.check_rejects(rejects)

    def check_rejects(self, rejects: pa.Table) -> None:
        """Raise `WorkspaceError` if too many of the counted rows are bad or none is left; it shows the first of `rejects`."""
        bad, allowed = self.written["rejects"], self.config.max_rejects
        if bad and (self.rows_out == 0 or bad > allowed * self.rows_in):
            first = "\n  ".join(tables.in_words(tables.conform("rejects", rejects.slice(0, MAX_SHOWN))))
            raise WorkspaceError(
                f"{self.stage.name}: {bad} of {self.rows_in} rows are bad ({allowed:.0%} are allowed, `max_rejects`); the first:\n"
                f"  {first}\nAll of them are, as Parquet, in {self.folder}/rejects"
            )

    def _check_lock(self) -> None:
        """A run that was taken for dead must not change what another has made of its version."""
        self.workspace.check_lock(f"{self.stage.name}/{self.version}/{MARKER}")

    def _check_declared(self, table: str, declared: tuple[str, ...]) -> None:
        if table not in declared:
            raise ValueError(f"stage {self.stage.name!r} does not declare table {table!r}")


def run_stage(workspace: Workspace, stage: Stage, config: Config, force: bool = False) -> tuple[Manifest, bool]:
    """Do the work of a stage unless its current version is still valid. Returns the manifest and whether anything was done.

    Raises `WorkspaceError` for a missing input, for an empty log if the stage needs one, if a larger share of rows than
    `max_rejects` is bad, or if there is no place or no permission to write.
    """
    stage.check(config)
    if stage.log and lacks_log(workspace):
        if stage.log == NEEDED:
            raise WorkspaceError(f"{stage.name}: {NO_LOG}; `rayrec events export CONFIG` makes a log of what a service recorded")
        stage = replace(stage, after=(), first=())
    for each in stage.first:
        run_stage(workspace, each, config)
    inputs = _inputs(workspace, stage)
    settings = stage.settings(config) | {"seed": config.seed}
    facts = [stage.name, __version__, settings, inputs, stage.sources(workspace, config)]
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    current = workspace.manifest(stage.name)
    if current and current.fingerprint == fingerprint and not force:
        return current, False
    if current and current.rayrec != __version__:
        log.info("%s: the current version was made by rayrec %s; rayrec %s redoes it", stage.name, current.rayrec, __version__)
    previous = None if force else current
    if previous and (damage := workspace.damage(previous, contents=not stage.shares)):
        log.warning("%s: %s; nothing is taken over from the version before", stage.name, damage)
        previous = None
    with workspace.making(stage.name, fingerprint) as version:
        run = StageRun(workspace, stage, config, version, settings, previous, alone=force or previous is not current)
        started = time.monotonic()
        _work(run)
        manifest = Manifest(
            stage=stage.name,
            version=run.version,
            fingerprint=fingerprint,
            settings=settings,
            inputs=inputs,
            tables=run.written,
            rows_in=run.rows_in,
            rows_out=run.rows_out,
            rejects=run.written.get("rejects", 0),
            seconds=round(time.monotonic() - started, 3),
            finished_at=int(time.time() * 1000),
            files=run.facts | ({path: previous.files[path] for path in run.shared} if previous else {}),
            shared=run.shared,
        )
        return workspace.publish(manifest), True


def lacks_log(workspace: Workspace) -> bool:
    """Whether the data set has no impressions. Before `ingest` has run, that is not known."""
    return workspace.has("interactions") and not workspace.rows("interactions")


def _work(run: StageRun) -> None:
    """Does the work of a stage.

    A full disk, a place that can't be written, and a version that somebody deletes meanwhile are errors that the user can mend.
    """
    try:
        run.stage.work(run)
    except OSError as error:
        if error.errno in FULL:
            raise WorkspaceError(
                f"{run.stage.name}: a disk is full ({error}); make room, for {run.workspace.uri} or where the error says, and run "
                "the command again: it goes on from what it has finished"
            ) from error
        if error.errno in UNWRITABLE:
            place = error.filename or f"workspace {run.workspace.uri}"
            raise WorkspaceError(f"{run.stage.name}: {place} can't be written: {os.strerror(error.errno)}") from error
        if is_of_the_store(error):
            raise WorkspaceError(
                f"{run.stage.name}: {in_words(error)}; run the command again: it goes on from what it has finished"
            ) from error
        raise
    if not run.fs.get_file_info(f"{run.folder}/{MARKER}").is_file:
        raise WorkspaceError(f"{run.folder} was deleted while it was made; run `rayrec {run.stage.name} CONFIG` again")


def _inputs(workspace: Workspace, stage: Stage) -> dict[str, str]:
    """The current version of every stage that this one reads."""
    versions = {}
    optional = {tables.spec_of(table).stage for table in stage.may_read if workspace.has(table)}
    for needed in {tables.spec_of(table).stage for table in stage.reads} | set(stage.after) | optional:
        versions[needed] = workspace.folder(needed).rsplit("/", 1)[1]
    return versions
