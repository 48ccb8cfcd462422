"""The workspace: where stages keep their tables, models and bundles, and how the output of a stage becomes visible in one step.

    <workspace>/<stage>/current               the name of the version that readers see
    <workspace>/<stage>/<version>/manifest.json
    <workspace>/<stage>/<version>/<table>/*.parquet, and whatever files the stage makes

A version is named after a fingerprint of its settings and of the versions that it reads. It is written into its own folder and
becomes visible in one atomic step, when `current` is replaced by a file that names it. A killed stage therefore leaves an
unfinished folder that nobody reads. The next run with the same fingerprint opens it again and goes on from what is there.

A workspace is a local folder or any URI that pyarrow or fsspec opens (`s3://`, `gs://`, `memory://`).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec import __version__, tables
from rayrec.errors import RayrecError
from rayrec.workspace.files import open_filesystem, read_whole, write_whole
from rayrec.workspace.parts import read_parts

KEPT_VERSIONS = 3  # of each stage, the current one included


class WorkspaceError(RayrecError):
    """The workspace can't be used, or something that a stage needs is not there; the message says what to do."""


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


class Workspace:
    """Reads what finished stages left, and opens new versions.

    Any method raises `WorkspaceError` for a file of the workspace's own that is damaged, or that a newer rayrec wrote.
    """

    def __init__(self, uri: str | Path) -> None:
        """Raises `WorkspaceError` for a URI that can't be opened, or a path that is a file."""
        try:
            self.fs, self.root = open_filesystem(uri)
        except (OSError, ValueError, ImportError) as error:  # Arrow's errors are among them
            raise WorkspaceError(f"workspace {uri} can't be opened: {error}") from error
        if isinstance(self.fs, pafs.LocalFileSystem) and Path(self.root).is_file():
            raise WorkspaceError(f"workspace {uri} is a file; name a folder")
        self.uri = str(uri) if "://" in str(uri) else self.root  # absolute: worker processes have other working folders

    # --- reading ---

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage's current version, or None if the stage has not finished yet."""
        version = (self._read_text(f"{stage}/current") or "").strip()
        return self._manifest(stage, version) if version else None

    def folder(self, stage: str) -> str:
        """The path (inside `self.fs`) of a stage's current version. Raises `WorkspaceError` if there is none."""
        manifest = self.manifest(stage)
        if manifest is None:
            raise WorkspaceError(f"workspace {self.uri}: stage {stage!r} has not run yet; run `rayrec {stage}` first")
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

        Raises `WorkspaceError` if there is no such table, and `TableError` for a column that it lacks.
        """
        stage = tables.spec_of(table).stage
        folder = self.folder(stage)
        if not self.has(table):
            raise WorkspaceError(f"workspace {self.uri}: stage {stage!r} wrote no table {table!r}")
        return read_parts(self.fs, f"{folder}/{table}", table, columns)

    def read_if_there(self, table: str) -> pa.Table | None:
        return self.read(table) if self.has(table) else None

    def read_file(self, path: str) -> bytes:
        """The content of a file, by its path inside `fs`, such as one in a stage's `folder`."""
        return read_whole(self.fs, path)

    def rejects(self, stage: str) -> pa.Table:
        manifest = self.manifest(stage)
        if manifest is None or "rejects" not in manifest.tables:
            return tables.empty("rejects")
        return read_parts(self.fs, f"{self.folder(stage)}/rejects", "rejects")

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
        found = self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{stage}", allow_not_found=True))
        manifests = [self._manifest(stage, item.base_name) for item in found if item.type == pafs.FileType.Directory]
        return sorted((manifest for manifest in manifests if manifest), key=lambda manifest: manifest.finished_at)

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file, by its path relative to the workspace, in one atomic step."""
        write_whole(self.fs, f"{self.root}/{path}", data)

    def open_version(self, stage: str, fingerprint: str) -> str:
        """The name of the unfinished version of this fingerprint, or else of a new one.

        Raises `WorkspaceError` if its folder can't be written.
        """
        number = 0
        while self._manifest(stage, f"{fingerprint}-{number}"):
            number += 1
        version = f"{fingerprint}-{number}"
        try:
            self.fs.create_dir(f"{self.root}/{stage}/{version}", recursive=True)
        except OSError as error:
            raise WorkspaceError(
                f"workspace {self.uri} can't be written ({error}); set `workspace` to a folder or URI where you may write"
            ) from error
        return version

    def publish(self, manifest: Manifest) -> None:
        """Make a complete version the current one. Of the others, only the last few and the pinned ones are kept."""
        self.write_file(f"{manifest.stage}/{manifest.version}/manifest.json", json.dumps(asdict(manifest), indent=1).encode())
        self.switch(manifest.stage, manifest.version)
        keep = {kept.version for kept in self.versions(manifest.stage)[-KEPT_VERSIONS:]} | {manifest.version}
        keep |= self._pinned(manifest.stage)
        for item in self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{manifest.stage}")):
            if item.type == pafs.FileType.Directory and item.base_name not in keep:
                self.fs.delete_dir(item.path)

    # --- inside ---

    def _manifest(self, stage: str, version: str) -> Manifest | None:
        path = f"{stage}/{version}/manifest.json"
        text = self._read_text(path)
        if text is None:
            return None
        again = f"delete the folder {self.root}/{stage}/{version} and run `rayrec {stage}` again"
        try:
            values = json.loads(text)
            unknown = values.keys() - {each.name for each in fields(Manifest)}
            if not unknown:
                return Manifest(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise WorkspaceError(f"{self.root}/{path} is damaged ({error}); {again}") from error
        raise WorkspaceError(
            f"{self.root}/{path} was written by rayrec {values.get('rayrec')}; this is rayrec {__version__}, which does not know "
            f"{', '.join(sorted(unknown))}: install that rayrec, set `workspace` to another folder, or {again}"
        )

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
            raise WorkspaceError(f"{self.root}/{path} can't be read: {error}") from error
        except UnicodeDecodeError as error:
            raise WorkspaceError(f"{self.root}/{path} is damaged ({error}); delete it and run its stage again") from error
