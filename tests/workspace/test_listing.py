"""Folders as people have them: links in a circle, names in other encodings, files that are only there to the eye."""

import os
from pathlib import Path

from rayrec.workspace.listing import list_folder, list_subfolders


def test_a_folder_is_entered_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b", "deep/a"):
        (tmp_path / name).write_text("x")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "deep" / "up").symlink_to("..")
    (tmp_path / "again").symlink_to("b")
    (tmp_path / "nowhere").symlink_to("missing")
    listing = list_folder(str(tmp_path))
    assert listing is not None
    assert (listing.names, listing.unreadable) == (["again", "b", "deep/a"], [])


def test_a_name_that_is_not_utf8_costs_its_file_alone(tmp_path: Path) -> None:
    for name in (b"caf\xe9.mp4", "caf\u00e9.mp4".encode(), b"plain.mp4"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    listing = list_folder(str(tmp_path))
    assert listing is not None
    assert listing.names == ["caf\u00e9.mp4", "plain.mp4"]
    assert listing.unreadable == ["caf\\xe9.mp4"]


def test_remote_folders_and_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.csv").write_text("x")
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/listing/sub/a.csv", b"x")
    local, remote = list_folder(str(tmp_path)), list_folder("memory://listing")
    assert local == remote
    assert remote is not None
    assert remote.names == ["sub/a.csv"]
    assert list_subfolders(str(tmp_path)) == list_subfolders("memory://listing") == ["sub"]
    assert list_folder(str(tmp_path / "sub" / "a.csv")) is None
    assert list_folder(str(tmp_path / "missing")) is None
