"""The workspace: where stages keep their tables, models and bundles, and how the output of a stage becomes visible in one step.

    <workspace>/<stage>/current               the name of the version that readers see
    <workspace>/<stage>/<version>/manifest.json
    <workspace>/<stage>/<version>/<table>/*.parquet, and whatever files the stage makes

A version is named after a fingerprint of its settings and of the versions that it reads. It is written into its own folder and
becomes visible in one atomic step, when `current` is replaced by a file that names it. A killed stage therefore leaves an
unfinished folder that nobody reads. The next run with the same fingerprint opens it again and goes on from what is there. Only one
run at a time may make a version.

A version may share part files with the one before it, so that a change of a large table costs no copy of the rest. They stay where
they are, and the manifest says in which version's folder.

The manifest of a finished version has the size and the SHA-256 of each of its files. They are checked when the files are read, so
that a file that was lost or damaged is an error and never an empty or a wrong table.

A workspace is a local folder or any URI that pyarrow or fsspec opens (`s3://`, `gs://`, `memory://`).
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import TypeAdapter, ValidationError

from rayrec import __version__, tables
from rayrec.config.wording import wording
from rayrec.workspace.files import WorkspaceError, checksum, open_filesystem, read_whole, write_whole, writing
from rayrec.workspace.locks import Busy, Lock, held
from rayrec.workspace.parts import part_paths, read_files
from rayrec.workspace.stores import in_words, problem_of

KEPT_VERSIONS = 3  # of each stage, the current one included
KEPT_UNFINISHED = timedelta(days=7)  # since the last change of one of its files; it may belong to a run that is still at it
MANIFEST, MARKER = "manifest.json", "unfinished"  # files of a version; a run holds the lock of the second while it makes it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """The record of a finished version, which is kept beside its tables."""

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
    # The size in bytes and the SHA-256 of each file, by its path in the version; empty in a version that rayrec 0.1 made.
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)  # which of them are in the folder of another version: path -> version


MANIFESTS = TypeAdapter(Manifest)


class Workspace:
    """Reads what finished stages left, and opens new versions.

    Any method raises `WorkspaceError` for a file of the workspace's own that is damaged, or that a newer rayrec wrote.
    """

    def __init__(self, uri: str | Path) -> None:
        """Raises `WorkspaceError` for a URI that can't be opened, a path that is a file, or a bucket that can't be used."""
        try:
            self.fs, self.root = open_filesystem(uri)
            is_file = isinstance(self.fs, pafs.LocalFileSystem) and Path(self.root).is_file()
        except (OSError, ValueError, ImportError) as error:  # Arrow's errors are among them
            raise WorkspaceError(f"workspace {uri} can't be opened: {in_words(error)}") from error
        if is_file:
            raise WorkspaceError(f"workspace {uri} is a file; name a folder")
        if problem := problem_of(self.fs, str(uri), self.root):
            raise WorkspaceError(f"workspace {uri} can't be used: {problem}")
        self.uri = str(uri) if "://" in str(uri) else self.root  # absolute: worker processes have other working folders
        self._locks: dict[str, Lock] = {}  # those that are held, by the path of the file
        self._checked: set[tuple[str, int, int]] = set()  # path, size and time of change of the files that are as they were written

    # --- reading ---

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage's current version, or None if the stage has not finished yet."""
        version = (self._read_text(f"{stage}/current") or "").strip()
        return self._manifest(stage, version) if version else None

    def folder(self, stage: str) -> str:
        """The path (inside `self.fs`) of a stage's current version. Raises `WorkspaceError` if there is none."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise WorkspaceError(f"workspace {self.uri}: stage {stage!r} has not run yet; run `rayrec {stage} CONFIG` first")
        return f"{self.root}/{stage}/{manifest.version}"

    def has(self, table: str) -> bool:
        manifest = self.manifest(tables.spec_of(table).stage)
        return manifest is not None and table in manifest.tables

    def rows(self, table: str) -> int:
        """The number of rows of a table."""
        manifest = self.manifest(tables.spec_of(table).stage)
        return manifest.tables[table] if manifest else 0

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """A table, or some columns of it, from the current version of the stage that writes it.

        Raises `WorkspaceError` if there is no such table or one of its files is damaged, `TableError` for a column that it lacks.
        """
        return self._read(tables.spec_of(table).stage, table, columns)

    def read_if_there(self, table: str, columns: list[str] | None = None) -> pa.Table | None:
        return self.read(table, columns) if self.has(table) else None

    def read_file(self, path: str) -> bytes:
        """The content of a file, by its path inside `fs`, such as one in a stage's `folder`."""
        return read_whole(self.fs, path)

    def rejects(self, stage: str) -> pa.Table:
        manifest = self.manifest(stage)
        if manifest is None or "rejects" not in manifest.tables:
            return tables.empty("rejects")
        return self._read(stage, "rejects", None)

    def parts(self, table: str) -> list[str]:
        """The paths of a table's part files, in the order of their names. Raises `WorkspaceError` if one of them is damaged."""
        return self._parts(tables.spec_of(table).stage, table)

    def part_digests(self, table: str) -> dict[str, str]:
        """The SHA-256 that each part file of a table had when it was written, by its path inside `fs`, in the order of their names.

        No file is read, so a caller compares the checksums of those that it reads.
        """
        manifest = self.manifest(tables.spec_of(table).stage)
        if manifest is None or not manifest.files:  # rayrec 0.1 recorded no checksums
            return {path: checksum(self.fs, path) for path in self.parts(table)}
        facts = {path: digest for path, (_, digest) in sorted(manifest.files.items()) if path.startswith(f"{table}/")}
        return {self.place(manifest, path): digest for path, digest in facts.items() if path.endswith(".parquet")}

    def check(self, stage: str) -> str:
        """The folder of a stage's current version, like `folder`, after all of its files have been checked."""
        folder = self.folder(stage)
        manifest = self.manifest(stage)
        if manifest and (problem := self.damage(manifest)):
            raise self._damaged(stage, problem)
        return folder

    def place(self, manifest: Manifest, path: str) -> str:
        """The path (inside `self.fs`) of a file of a version, by its path in the version."""
        return f"{self.root}/{manifest.stage}/{manifest.shared.get(path, manifest.version)}/{path}"

    def damage(self, manifest: Manifest, prefix: str = "", contents: bool = True) -> str | None:
        """What is wrong with the first file that is not as it was written, of those whose paths in the version begin so.

        Without `contents` only the sizes are looked at, which reads no file.
        """
        expected = {self.place(manifest, path): facts for path, facts in manifest.files.items() if path.startswith(prefix)}
        for item in self.fs.get_file_info(list(expected)) if expected else ():
            size, digest = expected[item.path]
            if not item.is_file:
                return f"{item.path} is missing"
            if item.size != size:
                return f"{item.path} has {item.size:,} bytes instead of {size:,}"
            known = item.path, item.size, item.mtime_ns or 0
            if contents and known not in self._checked:
                if checksum(self.fs, item.path) != digest:
                    return f"{item.path} is damaged (its checksum differs)"
                self._checked.add(known)
        return None

    # --- writing ---

    def switch(self, stage: str, version: str) -> None:
        """Make a finished version the current one, in one atomic step."""
        if self._manifest(stage, version) is None:
            raise WorkspaceError(f"workspace {self.uri}: {stage} has no finished version {version!r}")
        self.write_file(f"{stage}/current", version.encode())

    def pin(self, stage: str, versions: Iterable[str]) -> None:
        """Keep these versions, however many come after them, until others are pinned in their place."""
        self.write_file(f"{stage}/pinned", json.dumps(sorted(versions)).encode())

    def versions(self, stage: str) -> list[Manifest]:
        """A stage's finished versions, the oldest first."""
        found = []
        for item in self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{stage}", allow_not_found=True)):
            if item.type == pafs.FileType.Directory:
                try:
                    found.append(self._manifest(stage, item.base_name))
                except WorkspaceError as error:  # it costs this version only
                    log.warning("%s", error)
        return sorted(filter(None, found), key=lambda manifest: manifest.finished_at)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file, by its path relative to the workspace, in one atomic step."""
        with writing(f"{self.root}/{path}", "workspace"):
            write_whole(self.fs, f"{self.root}/{path}", data)

    def open_version(self, stage: str, fingerprint: str) -> str:
        """The name of the unfinished version of this fingerprint, or else of a new one.

        Raises `WorkspaceError` if its folder can't be written.
        """
        number = 0
        while self._manifest(stage, f"{fingerprint}-{number}"):
            number += 1
        version = f"{fingerprint}-{number}"
        with writing(f"workspace {self.uri}", "workspace"):
            self.fs.create_dir(f"{self.root}/{stage}/{version}", recursive=True)
        return version

    @contextlib.contextmanager
    def making(self, stage: str, fingerprint: str) -> Iterator[str]:
        """Opens a version like `open_version`, and keeps other runs out of it while the block runs.

        Raises `WorkspaceError` if another run is making this version.
        """
        version = self.open_version(stage, fingerprint)
        place = f"{self.root}/{stage}/{version}"

        def busy(holder: object) -> str:
            return f"another `rayrec {stage}` with the same settings is at work in {place}: {holder}; wait until it has ended"

        with self.locked(f"{stage}/{version}/{MARKER}", busy):
            if self._manifest(stage, version):
                raise WorkspaceError(f"another `rayrec {stage}` has just made {place}; run the command again")
            yield version

    @contextlib.contextmanager
    def locked(self, path: str, busy: Busy | None = None) -> Iterator[None]:
        """Holds the lock of a file, by its path relative to the workspace, while the block runs.

        It waits for another process that holds it, or raises what `busy` says of its holder as `WorkspaceError`. The lock of a dead
        process is free: at once on a local file system, elsewhere after half a minute.
        """
        with held(self.fs, f"{self.root}/{path}", busy) as self._locks[path]:
            try:
                yield
            finally:
                del self._locks[path]

    def check_lock(self, path: str) -> None:
        """Raises `WorkspaceError` if this process was taken for dead and another has this lock now."""
        if path in self._locks:
            self._locks[path].check()

    def publish(self, manifest: Manifest) -> Manifest:
        """Make a complete version the current one, and return its manifest with the facts about its files.

        Files whose facts the manifest has already are not read again, if they have that size.

        Raises `WorkspaceError` if this process was taken for dead meanwhile, and another goes on with the version.
        Of the others, only the last few, the pinned ones, those with which one of these shares files, and those that may still be
        in the making are kept.
        """
        stage, version = manifest.stage, manifest.version
        marker = f"{stage}/{version}/{MARKER}"
        manifest = replace(manifest, files=manifest.files | self._files(stage, version, manifest.files))
        self.check_lock(marker)
        self.write_file(f"{stage}/{version}/{MANIFEST}", json.dumps(asdict(manifest), indent=1).encode())
        if marker in self._locks:
            self._locks[marker].end()  # else it would be written again
        if self.fs.get_file_info(f"{self.root}/{marker}").is_file:
            self.fs.delete_file(f"{self.root}/{marker}")
        self.switch(stage, version)
        finished = self.versions(stage)
        keep = {kept.version for kept in finished[-KEPT_VERSIONS:]} | {version} | self._pinned(stage)
        keep |= {other for kept in finished if kept.version in keep for other in kept.shared.values()}
        for item in self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{stage}")):
            if (
                item.type == pafs.FileType.Directory
                and item.base_name not in keep
                and not self._may_be_needed(stage, item.base_name)
            ):
                self.fs.delete_dir(item.path)
        return manifest

    # --- inside ---

    def _read(self, stage: str, table: str, columns: list[str] | None) -> pa.Table:
        manifest = self.manifest(stage)
        paths = self._parts(stage, table)
        try:
            found = read_files(self.fs, paths, table, columns)
        except (OSError, pa.ArrowInvalid) as error:  # in a version whose manifest has no checksums
            raise self._damaged(stage, f"table {table} can't be read ({error})") from error
        assert manifest is not None
        if found.num_rows != manifest.tables[table]:
            raise self._damaged(stage, f"table {table} has {found.num_rows:,} rows instead of {manifest.tables[table]:,}")
        return found

    def _parts(self, stage: str, table: str) -> list[str]:
        folder, manifest = self.folder(stage), self.manifest(stage)
        if manifest is None or table not in manifest.tables:
            raise WorkspaceError(f"workspace {self.uri}: stage {stage!r} wrote no table {table!r}")
        if problem := self.damage(manifest, f"{table}/"):
            raise self._damaged(stage, problem)
        if not manifest.files:
            return part_paths(self.fs, f"{folder}/{table}")
        paths = (path for path in manifest.files if path.startswith(f"{table}/") and path.endswith(".parquet"))
        return [self.place(manifest, path) for path in sorted(paths)]

    def _damaged(self, stage: str, problem: str) -> WorkspaceError:
        return WorkspaceError(f"workspace {self.uri}: {problem}; make it again: `rayrec {stage} CONFIG --force`")

    def _files(self, stage: str, version: str, known: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
        """The size and the SHA-256 of each file of a version. What is known of files of the same size is taken as it is."""
        folder = f"{self.root}/{stage}/{version}"
        found = self.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=True))
        names = {item.path.removeprefix(f"{folder}/"): item for item in found if item.is_file}
        return {
            name: known[name] if name in known and known[name][0] == item.size else (item.size, checksum(self.fs, item.path))
            for name, item in sorted(names.items())
            if name not in (MANIFEST, MARKER)
        }

    def _may_be_needed(self, stage: str, version: str) -> bool:
        """Whether a version is unfinished and something in it has changed lately, or only another rayrec can read its manifest."""
        try:
            if self._manifest(stage, version):
                return False
        except WorkspaceError:
            return True
        found, now = self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{stage}/{version}", recursive=True)), datetime.now(UTC)
        # Folders in a bucket have no time.
        return max((item.mtime for item in found if item.mtime), default=now) > now - KEPT_UNFINISHED

    def _manifest(self, stage: str, version: str) -> Manifest | None:
        path = f"{stage}/{version}/manifest.json"
        text = self._read_text(path)
        if text is None:
            return None
        again = f"delete the folder {self.root}/{stage}/{version} and run `rayrec {stage} CONFIG` again"
        try:
            values = json.loads(text)
            by, known = values.get("rayrec"), {each.name for each in fields(Manifest)}
            if unknown := values.keys() - known:
                raise WorkspaceError(
                    f"{self.root}/{path} was written by rayrec {by}; this is rayrec {__version__}, which does not know "
                    f"{', '.join(sorted(unknown))}: install that rayrec, set `workspace` to another folder, or {again}"
                )
            return MANIFESTS.validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {wording(first)}"
            raise WorkspaceError(
                f"{self.root}/{path} is damaged or was written by a rayrec that is too old, {by} ({problem}); {again}"
            ) from error
        except (ValueError, AttributeError) as error:
            raise WorkspaceError(f"{self.root}/{path} is damaged ({error}); {again}") from error

    def _pinned(self, stage: str) -> set[str]:
        try:
            return set(json.loads(self._read_text(f"{stage}/pinned") or "[]"))
        except (ValueError, TypeError) as error:
            raise WorkspaceError(f"{self.root}/{stage}/pinned is damaged ({error}); delete it") from error

    def _read_text(self, path: str) -> str | None:
        """The text of a file, by its path relative to the workspace; None if there is no such file."""
        try:
            return self.read_file(f"{self.root}/{path}").decode()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WorkspaceError(f"{self.root}/{path} can't be read: {in_words(error)}") from error
        except UnicodeDecodeError as error:
            raise WorkspaceError(f"{self.root}/{path} is damaged ({error}); delete it and run its stage again") from error
