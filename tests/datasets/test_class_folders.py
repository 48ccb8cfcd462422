import logging
import os
from pathlib import Path

import pytest

from rayrec.datasets.class_folders import PICTURES, SOUNDS, ClassFolders, Kind, list_classes, paired, words_of
from rayrec.tables import TableError


def folder_of(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return str(root)


def classes(kind: Kind, *names: str) -> ClassFolders:
    return ClassFolders("here", kind, {name: ["x"] for name in sorted(names)})


def test_classes_are_subfolders_and_other_files_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("cat/1.JPG", "cat/more/2.png", "dog/3.webp", "dog/read.me", ".hidden/4.jpg", "cat/.5.jpg", "loose.jpg")
    folder = folder_of(tmp_path, *names)
    with caplog.at_level(logging.WARNING):
        found = list_classes(folder, PICTURES)
    assert {name: [Path(uri).relative_to(tmp_path).as_posix() for uri in uris] for name, uris in found.files.items()} == {
        "cat": ["cat/1.JPG", "cat/more/2.png"],
        "dog": ["dog/3.webp"],
    }
    assert found.rejected[0].num_rows == 0
    assert "files whose endings are not those of pictures are left out: 1 (.me: 1)" in caplog.text
    assert "pictures outside the subfolders of the classes are left out: 1" in caplog.text


def test_names_that_are_not_utf8_are_rejected(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat/1.jpg", "dog/2.jpg", os.fsdecode(b"caf\xe9/3.jpg"), os.fsdecode(b"dog/\xe9.jpg"))
    found = list_classes(folder, PICTURES)
    assert {name: len(uris) for name, uris in found.files.items()} == {"cat": 1, "dog": 1}
    (rejected,) = found.rejected
    assert [row["source"] for row in rejected.to_pylist()] == [r"caf\xe9/3.jpg", r"dog/\xe9.jpg"]


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TableError, match=r"nowhere: there is no such folder; set `dataset.sounds` to a folder that has a subfolder"
    ):
        list_classes(str(tmp_path / "nowhere"), SOUNDS)
    with pytest.raises(TableError, match="pictures of at least two classes are needed, and only 'cat' is there"):
        list_classes(folder_of(tmp_path / "one", "cat/1.jpg"), PICTURES)
    folder = folder_of(tmp_path / "two", "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "two" / "owl").mkdir()
    with pytest.raises(TableError, match="two/owl: the folder contains no pictures"):
        list_classes(folder, PICTURES)


def test_classes_are_paired_as_given_by_equal_words_and_then_in_order(caplog: pytest.LogCaptureFixture) -> None:
    pictures = classes(PICTURES, "cat", "dog_bark", "frog", "owl", "ship")
    sounds = classes(SOUNDS, "001 - Dog Bark", "chainsaw", "rain", "surf", "wind")
    with caplog.at_level(logging.WARNING):
        assert paired(pictures, sounds, {"ship": "surf"}) == {
            "ship": "surf",
            "dog_bark": "001 - Dog Bark",
            "cat": "chainsaw",
            "frog": "rain",
            "owl": "wind",
        }
    assert caplog.messages == []
    assert paired(classes(PICTURES, "cat", "dog"), sounds, {"cat": "rain", "dog": "rain"}) == {"cat": "rain", "dog": "rain"}
    assert "no class of pictures is paired with the sounds of 001 - Dog Bark, chainsaw, surf, wind" in caplog.text
    with pytest.raises(TableError, match=r"no sounds for the pictures of owl, ship; add a folder for each class, or name one"):
        paired(pictures, classes(SOUNDS, "rain", "wind", "surf"), {})
    with pytest.raises(TableError, match=r"dataset.sound_classes: here has no folder 'rein'; did you mean 'rain'"):
        paired(pictures, sounds, {"cat": "rein"})
    with pytest.raises(TableError, match=r"dataset.sound_classes: here has no folder 'cart'; did you mean 'cat'"):
        paired(pictures, sounds, {"cart": "rain"})


def test_words_of_a_name() -> None:
    assert words_of("001 - Dog bark") == ["dog", "bark"]
    assert words_of("Golden_Retriever") == ["golden", "retriever"]
    assert words_of("été-2024") == ["été"]
    assert words_of("17") == ["17"]
