"""Where tables, models and bundles live, and how a stage's output appears there all at once.

    <workspace>/<stage>/current               the name of the version that readers see
    <workspace>/<stage>/<version>/manifest.json
    <workspace>/<stage>/<version>/<table>/*.parquet, and whatever files the stage makes

A version is named after a fingerprint of its settings and of the versions it reads. It is filled in place and becomes visible in
one atomic step: the replacement of `current` by a file that names it. A killed stage therefore leaves an unfinished folder that
nobody reads; the next run with the same fingerprint opens it again and goes on from what is there (`StageRun.resumed`).

A workspace is a local folder or any URI that pyarrow or fsspec opens (`s3://`, `gs://`, `memory://`).
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
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

    # --- writing ---

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

    def open_version(self, stage: str, fingerprint: str) -> str:
        """The name of the unfinished version of this fingerprint, or else of a new one."""
        number = 0
        while self._manifest(stage, f"{fingerprint}-{number}"):
            number += 1
        version = f"{fingerprint}-{number}"
        self.fs.create_dir(f"{self.root}/{stage}/{version}", recursive=True)
        return version

    def publish(self, manifest: Manifest) -> None:
        """Make a version that is complete the current one; only the last few and the pinned ones stay beside it."""
        self.write_file(f"{manifest.stage}/{manifest.version}/manifest.json", json.dumps(asdict(manifest), indent=1).encode())
        self.switch(manifest.stage, manifest.version)
        keep = {kept.version for kept in self.versions(manifest.stage)[-KEPT_VERSIONS:]} | {manifest.version}
        keep |= set(json.loads(self._read_text(f"{manifest.stage}/pinned") or "[]"))
        for item in self.fs.get_file_info(pafs.FileSelector(f"{self.root}/{manifest.stage}")):
            if item.type == pafs.FileType.Directory and item.base_name not in keep:
                self.fs.delete_dir(item.path)

    # --- inside ---

    def _manifest(self, stage: str, version: str) -> Manifest | None:
        text = self._read_text(f"{stage}/{version}/manifest.json")
        return Manifest(**json.loads(text)) if text else None

    def _read_text(self, path: str) -> str | None:
        try:
            with self.fs.open_input_file(f"{self.root}/{path}") as stream:
                return stream.read().decode()
        except FileNotFoundError:
            return None
