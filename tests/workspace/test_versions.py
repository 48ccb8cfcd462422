"""A workspace keeps the last versions of each stage, and says in a sentence what is missing or damaged."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec import __version__
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.versions import KEPT_UNFINISHED, KEPT_VERSIONS, Manifest, Workspace, WorkspaceError


def publish(workspace: Workspace, number: int) -> Manifest:
    """A finished version of `ingest` whose catalog holds the video v<number>."""
    version = workspace.open_version("ingest", f"f{number}")
    folder = f"{workspace.root}/ingest/{version}/catalog"
    workspace.fs.create_dir(folder)
    pq.write_table(pa.table({"video_id": [f"v{number}"]}), f"{folder}/part-0.parquet", filesystem=workspace.fs)
    return workspace.publish(Manifest("ingest", version, f"f{number}", {}, {}, {"catalog": 1}, 1, 1, 0, 0.0, number))


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
    with pytest.raises(WorkspaceError, match="run `rayrec ingest CONFIG` first"):
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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"stage": "ingest"}', OLD.replace("72480", '"many"'), OLD.replace("25.173", "[]")]
)
def test_a_damaged_manifest_is_named(workspace: Workspace, text: str) -> None:
    with pytest.raises(WorkspaceError, match=r"manifest.json is damaged .*delete the folder .*run `rayrec ingest CONFIG` again"):
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


def test_an_old_version_with_a_manifest_that_can_not_be_read_costs_nothing_else(workspace: Workspace) -> None:
    old = publish(workspace, 0)
    newer = json.dumps({"rayrec": "9.0", "shards": 64})
    workspace.write_file(f"ingest/{old.version}/manifest.json", newer.encode())
    manifests = [publish(workspace, number) for number in range(1, 3 + KEPT_VERSIONS)]
    assert workspace.versions("ingest") == manifests[-KEPT_VERSIONS:]
    assert workspace.fs.get_file_info(f"{workspace.root}/ingest/{old.version}/manifest.json").is_file  # the newer rayrec's own


# --- files that are not as they were written ---


def part(workspace: Workspace, manifest: Manifest) -> str:
    return f"{workspace.root}/ingest/{manifest.version}/catalog/part-0.parquet"


def flip(workspace: Workspace, path: str) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(workspace.read_file(path))
    data[len(data) // 2] ^= 1
    with workspace.fs.open_output_stream(path) as stream:
        stream.write(data)


def cut(workspace: Workspace, path: str) -> None:
    data = workspace.read_file(path)
    with workspace.fs.open_output_stream(path) as stream:
        stream.write(data[:-9])


def lose(workspace: Workspace, path: str) -> None:
    workspace.fs.delete_file(path)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (flip, r"part-0\.parquet is damaged \(its checksum differs\)"),
        (cut, r"part-0\.parquet has \d+ bytes instead of \d+"),
        (lose, r"part-0\.parquet is missing"),
    ],
)
def test_a_part_that_is_not_as_it_was_written_is_an_error(
    workspace: Workspace, harm: Callable[[Workspace, str], None], problem: str
) -> None:
    manifest = publish(workspace, 0)
    assert manifest.files.keys() == {"catalog/part-0.parquet"}
    assert workspace.parts("catalog") == [part(workspace, manifest)]
    harm(workspace, part(workspace, manifest))
    reader = Workspace(workspace.uri)
    for read in (reader.read, reader.parts, lambda table: reader.read(table, ["video_id"]), lambda table: reader.check("ingest")):
        with pytest.raises(WorkspaceError, match=rf"{problem}; make it again: `rayrec ingest CONFIG --force`"):
            read("catalog")


@pytest.mark.parametrize("harm", [flip, cut, lose])
def test_a_version_without_checksums_is_checked_by_its_rows(workspace: Workspace, harm: Callable[[Workspace, str], None]) -> None:
    manifest = publish(workspace, 0)
    bare = {name: value for name, value in vars(manifest).items() if name != "files"}
    workspace.write_file(f"ingest/{manifest.version}/manifest.json", json.dumps(bare).encode())
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v0"]
    harm(workspace, part(workspace, manifest))
    if harm is not flip:  # that may go unnoticed
        with pytest.raises(WorkspaceError, match=r"table catalog .*make it again"):
            workspace.read("catalog")


def test_a_part_that_does_not_belong_to_the_version_is_not_read(workspace: Workspace) -> None:
    manifest = publish(workspace, 0)
    workspace.write_file(f"ingest/{manifest.version}/catalog/part-9.parquet", workspace.read_file(part(workspace, manifest)))
    assert workspace.read("catalog").num_rows == 1


def test_a_table_that_was_deleted_while_it_was_made_is_an_error_of_its_readers(workspace: Workspace) -> None:
    version = workspace.open_version("ingest", "f0")
    workspace.publish(Manifest("ingest", version, "f0", {}, {}, {"catalog": 1}, 1, 1, 0, 0.0, 0))
    with pytest.raises(WorkspaceError, match="table catalog has 0 rows instead of 1; make it again"):
        workspace.read("catalog")


# --- several runs at once ---


def test_a_version_in_the_making_outlives_those_that_are_published_meanwhile(workspace: Workspace) -> None:
    with workspace.making("ingest", "slow") as version:
        workspace.write_file(f"ingest/{version}/checkpoint", b"an hour's work")
        for number in range(KEPT_VERSIONS + 1):
            publish(workspace, number)
        assert workspace.read_file(f"{workspace.root}/ingest/{version}/checkpoint") == b"an hour's work"


def test_what_a_killed_run_left_goes_in_the_end(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write_file("ingest/killed-0/part", b"")
    publish(workspace, 0)
    assert (tmp_path / "ingest/killed-0/part").exists()
    before = time.time() - KEPT_UNFINISHED.total_seconds() - 60
    for path in (tmp_path / "ingest/killed-0").iterdir():
        os.utime(path, (before, before))
    publish(workspace, 1)
    assert not (tmp_path / "ingest/killed-0").exists()


def test_two_runs_do_not_make_the_same_version(tmp_path: Path) -> None:
    first, second = Workspace(tmp_path), Workspace(tmp_path)
    with (
        first.making("ingest", "f0") as version,
        pytest.raises(
            WorkspaceError,
            match=r"another `rayrec ingest` with the same settings is at work in .*/ingest/f0-0: process \d+ on .*; wait",
        ),
        second.making("ingest", "f0"),
    ):
        pass
    with second.making("ingest", "f0") as again:  # what the first run left is gone on with
        assert again == version


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


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (tmp_path / "serving").touch()
    with pytest.raises(WorkspaceError, match=r"can't be written .*/serving"):
        workspace.write_file("serving/swaps.json", b"[]")
    with pytest.raises(WorkspaceError, match=r"serving/swap\.lock can't be written"), workspace.locked("serving/swap.lock"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WorkspaceError, match="can't be written"):
        Workspace(tmp_path / "space").open_version("ingest", "f0")


@pytest.mark.parametrize("place", ["x" * 300, "~no-such-user/space", "foo://space"])
def test_a_place_that_cannot_be_opened_is_a_sentence(place: str) -> None:
    with pytest.raises(WorkspaceError, match=f"workspace {place} can't be opened"):
        Workspace(place)
