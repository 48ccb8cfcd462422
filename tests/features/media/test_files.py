"""Where media files are, and their versions."""

import os
from pathlib import Path

import fsspec

from rayrec.features.media.files import file_versions, locate


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
