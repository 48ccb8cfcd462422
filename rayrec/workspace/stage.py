"""What a stage is, and how it is run."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import __version__, tables
from rayrec.config import Config
from rayrec.workspace.parts import stream_parts
from rayrec.workspace.versions import Manifest, Workspace, WorkspaceError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One step on the way from raw videos to a bundle: the tables it reads and writes, the settings it depends on, and its work.

    The tables of `reads` must be there; those of `may_read` are read if they are. `sources` returns facts (size and time of change)
    about files outside the workspace: when one changes, the stage is redone.
    """

    name: str
    work: "Callable[[StageRun], None]"
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # stages whose files (not tables) are read
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    sources: "Callable[[Workspace, Config], list[Any]]" = lambda workspace, config: []


@dataclass
class StageRun:
    """One run of a stage. It reads only the tables that the stage declares, and writes into its own unfinished version."""

    workspace: Workspace
    stage: Stage
    config: Config
    version: str
    settings: dict[str, Any]
    previous: Manifest | None  # the version that this one will replace; None with `--force`, so that nothing is taken over
    rows_in: int = 0
    rows_out: int = 0
    written: dict[str, int] = field(default_factory=dict)

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

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.read(table, columns)

    def read_if_there(self, table: str) -> pa.Table | None:
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.read_if_there(table)

    def input_folder(self, stage: str) -> str:
        """The folder of another stage's current version, for reading files (not tables) from it."""
        if stage not in self.stage.after:
            raise ValueError(f"stage {self.stage.name!r} does not declare that it reads the files of {stage!r}")
        return self.workspace.folder(stage)

    def write(self, name: str, table: pa.Table) -> None:
        """Validate a table and write it as one Parquet file."""
        self._check_declared(name, (*self.stage.writes, "rejects"))
        table = tables.validate(name, table)
        self.fs.create_dir(f"{self.folder}/{name}", recursive=True)
        pq.write_table(table, f"{self.folder}/{name}/part-0.parquet", filesystem=self.fs, compression="zstd")
        self.written[name] = table.num_rows

    def written_in_parts(self, name: str) -> int:
        """Validate a table that the stage has written as part files, one at a time. Returns its number of rows."""
        self._check_declared(name, (*self.stage.writes, "rejects"))
        key = list(tables.spec_of(name).key)
        parts = (tables.validate(name, part) for part in stream_parts(self.fs, f"{self.folder}/{name}", name))
        keys = pa.concat_tables([tables.empty(name).select(key), *(part.select(key) for part in parts)])
        tables.refuse(name, keys, tables.repeats(name, keys))
        self.written[name] = keys.num_rows
        return keys.num_rows

    def write_file(self, name: str, data: bytes) -> None:
        path = f"{self.folder}/{name}"
        self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self.fs.open_output_stream(path) as stream:
            stream.write(data)

    def count(self, rows_in: int, rows_out: int, rejects: pa.Table | None = None) -> None:
        """Record the counts and write the rejects.

        Raises `WorkspaceError` if too many rows are bad or none is left. It shows the first reason and names the file of them all.
        """
        self.rows_in, self.rows_out = rows_in, rows_out
        if rejects is not None:
            self.write("rejects", rejects)
        bad = self.written.get("rejects", 0)
        allowed = self.config.max_rejects
        if rejects is not None and bad and (rows_out == 0 or bad > allowed * rows_in):
            first = rejects.slice(0, 1).to_pylist()[0]
            raise WorkspaceError(
                f"{self.stage.name}: {bad} of {rows_in} rows are bad ({allowed:.0%} are allowed, `max_rejects`); the first: "
                f"{first['source']}: {first['reason']}. All of them: {self.folder}/rejects"
            )

    def _check_declared(self, table: str, declared: tuple[str, ...]) -> None:
        if table not in declared:
            raise ValueError(f"stage {self.stage.name!r} does not declare table {table!r}")


def run_stage(workspace: Workspace, stage: Stage, config: Config, force: bool = False) -> tuple[Manifest, bool]:
    """Do the work of a stage unless its current version is still valid. Returns the manifest and whether anything was done.

    Raises `WorkspaceError` for a missing input, or if a larger share of rows than `max_rejects` is bad.
    """
    inputs = _inputs(workspace, stage)
    settings = stage.settings(config) | {"seed": config.seed}
    facts = [stage.name, __version__, settings, inputs, stage.sources(workspace, config)]
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    current = workspace.manifest(stage.name)
    if current and current.fingerprint == fingerprint and not force:
        return current, False
    if current and current.rayrec != __version__:
        log.info("%s: the current version was made by rayrec %s; rayrec %s redoes it", stage.name, current.rayrec, __version__)
    run = StageRun(workspace, stage, config, workspace.open_version(stage.name, fingerprint), settings, None if force else current)
    started = time.monotonic()
    stage.work(run)
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
    )
    workspace.publish(manifest)
    return manifest, True


def _inputs(workspace: Workspace, stage: Stage) -> dict[str, str]:
    """The current version of every stage that this one reads."""
    versions = {}
    optional = {tables.spec_of(table).stage for table in stage.may_read if workspace.has(table)}
    for needed in {tables.spec_of(table).stage for table in stage.reads} | set(stage.after) | optional:
        versions[needed] = workspace.folder(needed).rsplit("/", 1)[1]
    return versions
