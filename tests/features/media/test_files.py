"""Where media files are, and their versions."""

import os
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest

from rayrec.features.media.files import MIN_LISTED, file_versions, locate


def test_a_remote_filesystem_is_opened_once_per_host() -> None:
    filesystem, path = locate("memory://clips/a.mp4")
    assert filesystem is locate("memory://clips/b.mp4")[0]
    assert path.endswith("clips/a.mp4")


def test_versions_are_size_and_time_of_the_files_that_are_there(tmp_path: Path) -> None:
    local = tmp_path / "a.mp4"
    local.write_bytes(b"12345")
    os.utime(local, ns=(7_000, 7_000))
    fsspec.filesystem("memory").pipe("/versions/b.mp4", b"123")
    uris = [str(local), local.as_uri(), "memory://versions/b.mp4", str(tmp_path / "missing.mp4"), "nonsense://x"]
    versions = file_versions(uris)
    assert versions.keys() == {str(local), local.as_uri(), "memory://versions/b.mp4"}
    assert versions[str(local)] == versions[local.as_uri()] == "5:7000"
    assert versions["memory://versions/b.mp4"].startswith("3:")


def test_many_files_of_a_remote_folder_are_found_by_one_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    for number in range(MIN_LISTED):
        store.pipe(f"/listed/{number}.mp4", b"1" * number)
    uris = [f"memory://listed/{number}.mp4" for number in range(MIN_LISTED)]
    few = file_versions(uris[:9]) | file_versions(uris[9:])
    asked = []
    ask = pafs.FSSpecHandler.get_file_info
    monkeypatch.setattr(pafs.FSSpecHandler, "get_file_info", lambda self, paths: asked.extend(paths) or ask(self, paths))
    assert file_versions([*uris, "memory://listed/missing.mp4"]) == few
    assert not asked
