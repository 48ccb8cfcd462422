"""A workspace keeps the last versions of each stage, and says in a sentence what is missing or damaged."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec import __version__
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.versions import KEPT_VERSIONS, Manifest, Workspace, WorkspaceError


def publish(workspace: Workspace, number: int) -> Manifest:
    """A finished version of `ingest` whose catalog holds the video v<number>."""
    version = workspace.open_version("ingest", f"f{number}")
    folder = f"{workspace.root}/ingest/{version}/catalog"
    workspace.fs.create_dir(folder)
    pq.write_table(pa.table({"video_id": [f"v{number}"]}), f"{folder}/part-0.parquet", filesystem=workspace.fs)
    manifest = Manifest("ingest", version, f"f{number}", {}, {}, {"catalog": 1}, 1, 1, 0, 0.0, number)
    workspace.publish(manifest)
    return manifest


def test_old_versions_go_and_an_older_one_can_be_switched_to(workspace: Workspace) -> None:
    for number in range(5):
        publish(workspace, number)
    kept = workspace.versions("ingest")
    assert [manifest.finished_at for manifest in kept] == [2, 3, 4][-KEPT_VERSIONS:]
    workspace.switch("ingest", kept[0].version)
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v2"]
    with pytest.raises(WorkspaceError, match="no finished version 'nonsense'"):
        workspace.switch("ingest", "nonsense")


def test_what_is_missing_is_named_with_the_command_that_makes_it(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="run `rayrec ingest` first"):
        workspace.read("catalog")
    publish(workspace, 0)
    with pytest.raises(WorkspaceError, match="wrote no table 'users'"):
        workspace.read("users")


def test_relative_workspaces_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Workspace("here").uri == str(tmp_path / "here")
    assert open_filesystem("memory://x/y")[1].strip("/") == "x/y"


# A manifest as rayrec 0.1.0 wrote it.
OLD = """{
 "stage": "ingest",
 "version": "5f09972b291f-0",
 "fingerprint": "5f09972b291f",
 "settings": {"WorldData": {"kind": "world", "videos": 480}, "seed": 7},
 "inputs": {},
 "tables": {"catalog": 480, "interactions": 72000, "rejects": 0},
 "rows_in": 72480,
 "rows_out": 72480,
 "rejects": 0,
 "seconds": 25.173,
 "finished_at": 1795926275130,
 "rayrec": "0.1.0"
}"""


def written(workspace: Workspace, manifest: str) -> Workspace:
    """The workspace with this text as the manifest of the current version of `ingest`."""
    version = "5f09972b291f-0"
    workspace.write_file(f"ingest/{version}/manifest.json", manifest.encode())
    workspace.write_file("ingest/current", version.encode())
    return workspace


def test_manifests_of_version_0_1_are_read(workspace: Workspace) -> None:
    manifest = written(workspace, OLD).manifest("ingest")
    assert manifest is not None
    assert (manifest.rayrec, manifest.tables["catalog"]) == ("0.1.0", 480)
    assert workspace.versions("ingest") == [manifest]


def test_a_manifest_of_a_newer_version_is_refused(workspace: Workspace) -> None:
    newer = json.dumps(json.loads(OLD) | {"rayrec": "9.0", "shards": 64})
    with pytest.raises(WorkspaceError, match=rf"manifest.json was written by rayrec 9.0; this is rayrec {__version__}.*shards"):
        written(workspace, newer).manifest("ingest")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "ingest"}'])
def test_a_damaged_manifest_is_named(workspace: Workspace, text: str) -> None:
    with pytest.raises(WorkspaceError, match=r"manifest.json is damaged .*delete the folder .*run `rayrec ingest` again"):
        written(workspace, text).manifest("ingest")


@pytest.mark.parametrize(
    ("file", "data", "ask", "message"),
    [
        ("current", b"\xff\xfe", lambda workspace: workspace.manifest("ingest"), "current is damaged"),
        ("current", b"nonsense", lambda workspace: workspace.folder("ingest"), "has not run yet"),
        ("current", b"", lambda workspace: workspace.folder("ingest"), "has not run yet"),
        ("pinned", b"{", lambda workspace: publish(workspace, 1), "pinned is damaged .*; delete it"),
    ],
)
def test_other_damaged_files_are_named(
    workspace: Workspace, file: str, data: bytes, ask: Callable[[Workspace], Any], message: str
) -> None:
    publish(workspace, 0)
    workspace.write_file(f"ingest/{file}", data)
    with pytest.raises(WorkspaceError, match=message):
        ask(workspace)


def test_a_newline_behind_the_current_version_does_no_harm(workspace: Workspace) -> None:
    manifest = publish(workspace, 0)
    workspace.write_file("ingest/current", f"{manifest.version}\n".encode())
    assert workspace.manifest("ingest") == manifest


def test_places_that_can_be_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="is a file; name a folder"):
        Workspace(tmp_path / "file")
    with pytest.raises(WorkspaceError, match="workspace nonsense://x can't be opened"):
        Workspace("nonsense://x")
    with pytest.raises(WorkspaceError, match=r"can't be written .*set `workspace` to a folder or URI where you may write"):
        Workspace("/proc/rayrec").open_version("ingest", "f0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WorkspaceError, match="can't be written"):
        Workspace(tmp_path / "space").open_version("ingest", "f0")
