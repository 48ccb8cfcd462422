"""Which files of a watched folder are taken: complete ones, once."""

import json
from pathlib import Path

import pytest

from rayrec.serving.watching import REJECTS, WatchedFile, WatchedFolder
from rayrec.workspace.versions import Workspace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def watched(folder: Path) -> WatchedFolder:
    return WatchedFolder(str(folder), Workspace(folder.parent / "workspace"))


def ids(found: list[WatchedFile]) -> list[str]:
    return [file.video_id for file in found]


def test_a_file_is_taken_when_it_has_stopped_growing(folder: Path) -> None:
    watch = watched(folder)
    assert watch.look() == []
    (folder / "a.mp4").write_bytes(b"1")
    assert watch.look() == []
    (folder / "a.mp4").write_bytes(b"12")  # still growing
    assert watch.look() == []
    (file,) = watch.look()
    assert (file.name, file.video_id, file.uri) == ("a.mp4", "a", str(folder / "a.mp4"))
    watch.done(file)
    assert watch.look() == []


def test_other_files_are_left_alone_and_ids_are_those_of_a_folder_of_videos(folder: Path) -> None:
    (folder / "more").mkdir()
    for name in ("a.mp4", "a.webm", "b.mp4.part", ".hidden.mp4", "notes.txt", "more/c.MOV", "more/c.json"):
        (folder / name).write_bytes(b"x")
    watch = watched(folder)
    watch.look()
    assert ids(watch.look()) == ["a.mp4", "a.webm", "more/c"]


def test_a_rejected_file_is_not_tried_again_until_it_changes_also_by_the_next_process(folder: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"no film")
    watch = watched(folder)
    watch.look()
    (file,) = watch.look()
    watch.reject(file, "not a video or sound file")
    assert watch.look() == []
    again = watched(folder)
    assert [again.look(), again.look()] == [[], []]
    (row,) = again.rejects()
    assert (row["file"], row["video_id"], row["reason"]) == ("bad.mp4", "bad", "not a video or sound file")
    assert json.loads((folder.parent / "workspace" / REJECTS).read_text()) == row
    (folder / "bad.mp4").write_bytes(b"a film, this time")
    assert [again.look(), ids(again.look())] == [[], ["bad"]]
    again.reject(again.look()[0], "no")
    assert [row["reason"] for row in again.rejects()] == ["no"]


def test_a_mended_file_beside_it_gives_a_rejected_file_another_chance(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"film")
    (folder / "a.json").write_text("{")
    watch = watched(folder)
    watch.look()
    (file,) = watch.look()
    watch.reject(file, "a.json is not valid JSON")
    (folder / "a.json").write_text("{}")
    watch.look()
    assert ids(watch.look()) == ["a"]


def test_what_the_file_beside_it_says(folder: Path) -> None:
    (folder / "a.mp4").write_bytes(b"x")
    watch = watched(folder)
    watch.look()
    (file,) = watch.look()
    assert watch.sidecar(file) == {}
    (folder / "a.json").write_text('{"title": "Rain", "tags": ["wet"]}')
    assert watch.sidecar(file) == {"title": "Rain", "tags": ["wet"]}
    for text, reason in (("{", "not valid JSON"), ("[1]", "holds no JSON object"), (" " * 2**21, "at most 1,048,576 are read")):
        (folder / "a.json").write_text(text)
        with pytest.raises(ValueError, match=rf"a\.json .*{reason}"):
            watch.sidecar(file)


def test_a_folder_that_is_not_there_yet_is_no_error(folder: Path) -> None:
    assert watched(folder / "later").look() == []
