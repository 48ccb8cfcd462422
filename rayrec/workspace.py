"""Where tables, models and bundles live, and how a stage's output appears there all at once.

    <workspace>/<stage>/current               the name of the version that readers see
    <workspace>/<stage>/<version>/manifest.json
    <workspace>/<stage>/<version>/<table>/*.parquet, and whatever files the stage makes

A version is named after a fingerprint of its settings and of the versions it reads. It is filled in place and becomes visible in
one atomic step: the replacement of `current` by a file that names it. A killed stage therefore leaves an unfinished folder that
nobody reads; the next run with the same fingerprint opens it again and goes on from what is there (`StageRun.resumed`).

A workspace is a local folder or any URI that pyarrow or fsspec opens (`s3://`, `gs://`, `memory://`).
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import BaseModel

from rayrec import __version__, tables
from rayrec.config import Config, dump

KEPT_VERSIONS = 3  # of each stage, the current one included

log = logging.getLogger(__name__)


class WorkspaceError(ValueError):
    """Something a stage needs is not in the workspace; the message names it and the command that makes it."""


@dataclass(frozen=True)
class Manifest:
    """What a finished version is: the record that is kept beside its tables."""

    stage: str
    version: str
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, str]  # stage -> the version that was read
    tables: dict[str, int]  # table -> rows
    rows_in: int
    rows_out: int
    rejects: int
    seconds: float
    finished_at: int  # UTC ms
    rayrec: str = __version__


@dataclass(frozen=True)
class Stage:
    """One step of the road: the tables it reads and writes, the settings it depends on, and its work.

    `reads` must be there; `may_read` is read when it is there. `sources` gives the facts about files outside the workspace (size
    and time of change) whose change must redo the stage. A stage that the config does not want is no part of the road.
    """

    name: str
    work: "Callable[[StageRun], None]"
    reads: tuple[str, ...] = ()
    may_read: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # stages whose files, not tables, are read
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    sources: "Callable[[Workspace, Config], list[Any]]" = lambda workspace, config: []
    wanted: Callable[[Config], bool] = lambda config: True


def open_filesystem(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path inside it, for a local path or any URI that pyarrow or fsspec knows."""
    text = str(uri)
    if "://" not in text:
        return pafs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    try:
        return pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        filesystem, path = fsspec.core.url_to_fs(text)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


class Workspace:
    """Reads what finished stages left, and opens new runs."""

    def __init__(self, uri: str | Path) -> None:
        self.fs, self.root = open_filesystem(uri)
        self.uri = str(uri) if "://" in str(uri) else self.root  # absolute: worker processes have other working folders

    # --- reading ---

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage's current version, or None when the stage has not finished yet."""
        version = self._read_text(f"{stage}/current")
        return self._manifest(stage, version) if version else None

    def folder(self, stage: str) -> str:
        """The path (inside `self.fs`) of a stage's current version. Raises `WorkspaceError` when there is none."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise WorkspaceError(f"workspace {self.uri}: stage {stage!r} has not run yet; run `rayrec {stage}` first")
        return f"{self.root}/{stage}/{manifest.version}"

    def has(self, table: str) -> bool:
        manifest = self.manifest(tables.spec_of(table).stage)
        return manifest is not None and table in manifest.tables

    def rows(self, table: str) -> int:
        """How many rows a table has that is there."""
        manifest = self.manifest(tables.spec_of(table).stage)
        return manifest.tables[table] if manifest else 0

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """A table, or some columns of it, from the current version of the stage that writes it.

        Raises `WorkspaceError` when there is none, and `TableError` for a column that it lacks.
        """
        stage = tables.spec_of(table).stage
        folder = self.folder(stage)
        if not self.has(table):
            raise WorkspaceError(f"workspace {self.uri}: stage {stage!r} wrote no table {table!r}")
        return read_parts(self.fs, f"{folder}/{table}", table, columns)

    def read_if_there(self, table: str) -> pa.Table | None:
        return self.read(table) if self.has(table) else None

    def read_file(self, path: str) -> bytes:
        """A file by its path inside `fs`, such as one in a stage's `folder`."""
        return read_whole(self.fs, path)

    def rejects(self, stage: str) -> pa.Table:
        manifest = self.manifest(stage)
        if manifest is None or "rejects" not in manifest.tables:
            return tables.empty("rejects")
        return read_parts(self.fs, f"{self.folder(stage)}/rejects", "rejects")

    # --- running ---

    def run(self, stage: Stage, config: Config, force: bool = False) -> tuple[Manifest, bool]:
        """Do a stage's work unless its current version still stands; returns the manifest and whether anything was done.

        Raises `WorkspaceError` for a missing input, or when a larger share of rows than `most_rejects` is bad.
        """
        inputs = self._inputs(stage)
        settings = stage.settings(config) | {"seed": config.seed}
        facts = [stage.name, __version__, settings, inputs, stage.sources(self, config)]
        fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
        current = self.manifest(stage.name)
        if current and current.fingerprint == fingerprint and not force:
            return current, False
        run = StageRun(self, stage, config, self._open_version(stage.name, fingerprint), settings, None if force else current)
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
        self._publish(manifest)
        return manifest, True

    def switch(self, stage: str, version: str) -> None:
        """Make a finished version the current one, in one atomic step."""
        if self._manifest(stage, version) is None:
            raise WorkspaceError(f"workspace {self.uri}: {stage} has no finished version {version!r}")
        self.write_file(f"{stage}/current", version.encode())

    def pin(self, stage: str, versions: Iterable[str]) -> None:
        """These versions stay, however many come after them, until others are pinned in their place."""
        self.write_file(f"{stage}/pinned", json.dumps(sorted(versions)).encode())

    def versions(self, stage: str) -> list[Manifest]:
        """A stage's finished versions, the oldest first."""
        found = self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{stage}", allow_not_found=True))
        manifests = [self._manifest(stage, item.base_name) for item in found if item.type == pafs.FileType.Directory]
        return sorted((manifest for manifest in manifests if manifest), key=lambda manifest: manifest.finished_at)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file (path relative to the workspace) beside its place and move it in."""
        write_whole(self.fs, f"{self.root}/{path}", data)

    # --- inside ---

    def _inputs(self, stage: Stage) -> dict[str, str]:
        """The version of every stage that this one reads."""
        versions = {}
        optional = {tables.spec_of(table).stage for table in stage.may_read if self.has(table)}
        for needed in {tables.spec_of(table).stage for table in stage.reads} | set(stage.after) | optional:
            versions[needed] = self.folder(needed).rsplit("/", 1)[1]
        return versions

    def _open_version(self, stage: str, fingerprint: str) -> str:
        """The name of the unfinished version of this fingerprint, or else of a new one."""
        number = 0
        while self._manifest(stage, f"{fingerprint}-{number}"):
            number += 1
        version = f"{fingerprint}-{number}"
        self.fs.create_dir(f"{self.root}/{stage}/{version}", recursive=True)
        return version

    def _publish(self, manifest: Manifest) -> None:
        self.write_file(f"{manifest.stage}/{manifest.version}/manifest.json", json.dumps(asdict(manifest), indent=1).encode())
        self.switch(manifest.stage, manifest.version)
        keep = {kept.version for kept in self.versions(manifest.stage)[-KEPT_VERSIONS:]} | {manifest.version}
        keep |= set(json.loads(self._read_text(f"{manifest.stage}/pinned") or "[]"))
        for item in self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{manifest.stage}")):
            if item.type == pafs.FileType.Directory and item.base_name not in keep:
                self.fs.delete_dir(item.path)

    def _manifest(self, stage: str, version: str) -> Manifest | None:
        text = self._read_text(f"{stage}/{version}/manifest.json")
        return Manifest(**json.loads(text)) if text else None

    def _read_text(self, path: str) -> str | None:
        try:
            with self.fs.open_input_file(f"{self.root}/{path}") as stream:
                return stream.read().decode()
        except FileNotFoundError:
            return None


@dataclass
class StageRun:
    """A stage at work: reads only the tables that its stage declares, writes into its own unfinished version."""

    workspace: Workspace
    stage: Stage
    config: Config
    version: str
    settings: dict[str, Any]
    previous: Manifest | None  # the version that this one will replace; None where everything is to be made anew (`force`)
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
        """The path of the version that this one will replace: what it holds may be kept instead of made again."""
        return f"{self.workspace.root}/{self.stage.name}/{self.previous.version}" if self.previous else None

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.read(table, columns)

    def read_if_there(self, table: str) -> pa.Table | None:
        self._check_declared(table, self.stage.reads + self.stage.may_read)
        return self.workspace.read_if_there(table)

    def input_folder(self, stage: str) -> str:
        """The folder of another stage's current version, for the files (not tables) in it."""
        if stage not in self.stage.after:
            raise WorkspaceError(f"stage {self.stage.name!r} does not declare that it reads the files of {stage!r}")
        return self.workspace.folder(stage)

    def write(self, name: str, table: pa.Table) -> None:
        """Validate a table and write it as one Parquet file."""
        self._check_declared(name, (*self.stage.writes, "rejects"))
        table = tables.validate(name, table)
        self.fs.create_dir(f"{self.folder}/{name}", recursive=True)
        pq.write_table(table, f"{self.folder}/{name}/part-0.parquet", filesystem=self.fs, compression="zstd")
        self.written[name] = table.num_rows

    def written_in_parts(self, name: str) -> int:
        """Validate a table that the stage's work wrote as part files, one at a time; counts it as written, returns its rows."""
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
        """Record the counts, write the rejects, and fail when too many rows are bad or none is left.

        Raises `WorkspaceError` that says how many and shows the first reason; the rejects stay readable at the path it names.
        """
        self.rows_in, self.rows_out = rows_in, rows_out
        if rejects is not None:
            self.write("rejects", rejects)
        bad = self.written.get("rejects", 0)
        allowed = self.config.most_rejects
        if rejects is not None and bad and (rows_out == 0 or bad > allowed * rows_in):
            first = rejects.slice(0, 1).to_pylist()[0]
            raise WorkspaceError(
                f"{self.stage.name}: {bad} of {rows_in} rows are bad ({allowed:.0%} are allowed, `most_rejects`); the first: "
                f"{first['source']}: {first['reason']}. All of them: {self.folder}/rejects"
            )

    def _check_declared(self, table: str, declared: tuple[str, ...]) -> None:
        if table not in declared:
            raise WorkspaceError(f"stage {self.stage.name!r} does not declare table {table!r}")


def read_parts(fs: pafs.FileSystem, folder: str, name: str, columns: list[str] | None = None) -> pa.Table:
    """All Parquet part files of a table, in the order of their names; an absent folder is an empty table."""
    parts = list(stream_parts(fs, folder, name, columns))
    return pa.concat_tables(parts).combine_chunks() if parts else tables.empty(name)


def stream_parts(fs: pafs.FileSystem, folder: str, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The same, one part after another. Raises `TableError` for one of the `columns` that is not there."""
    for path in part_paths(fs, folder):
        if columns is None:
            yield tables.conform(name, pq.read_table(path, filesystem=fs))
            continue
        there = pq.read_schema(path, filesystem=fs).names
        for column in columns:
            if column not in there:
                raise tables.TableError(f"table {name} has no column {column!r}{tables.did_you_mean(column, there)}")
        yield pq.read_table(path, filesystem=fs, columns=columns)


def part_paths(fs: pafs.FileSystem, folder: str) -> list[str]:
    selector = pafs.FileSelector(folder, allow_not_found=True)
    return sorted(item.path for item in fs.get_file_info(selector) if item.path.endswith(".parquet"))


def read_whole(fs: pafs.FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as file:
        return file.read()


def write_whole(fs: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write a file beside its place and move it in."""
    fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with fs.open_output_stream(path + ".new") as stream:
        stream.write(data)
    fs.move(path + ".new", path)


def settings_of(*sections: BaseModel) -> dict[str, Any]:
    """Config sections as plain values, under the names of their classes."""
    return {type(section).__name__: dump(section) for section in sections}


def file_facts(fs: pafs.FileSystem, paths: list[str]) -> list[tuple[str, int, int]]:
    """(path, bytes, time of change in ns) of each file; (path, -1, -1) for one that is missing."""
    found = fs.get_file_info(paths)
    return [(item.path, item.size, item.mtime_ns) if item.is_file else (item.path, -1, -1) for item in found]
