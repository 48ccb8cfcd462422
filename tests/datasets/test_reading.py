"""Folders of videos and tables: every file that can be named becomes a row, and what is left out is said."""

import logging
import os
from pathlib import Path

import pytest

from rayrec.datasets.reading import list_tables, list_videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "a.mov", "b.mp4", "c.ts", "d.3gp", "._a.mp4", ".hidden/e.mp4", "notes.txt", "f.mp4.mkv", "f.mp4", "g"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "loop").symlink_to(".")
    return tmp_path


def test_every_video_gets_an_id_of_its_own(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        listed = list_videos(str(folder))
    assert listed is not None
    ids = dict(zip(listed.table["uri"].to_pylist(), listed.table["video_id"].to_pylist(), strict=True))
    assert ids == {
        "a.mov": "a.mov",
        "a.mp4": "a.mp4",
        "b.mp4": "b",
        "c.ts": "c",
        "d.3gp": "d",
        "f.mp4": "f",
        "f.mp4.mkv": "f.mp4.mkv",  # its stem is the name of another file
    }
    assert listed.rejects.num_rows == 0
    assert "files whose endings are not those of videos are left out: 2 (.txt: 1, none: 1)" in caplog.text


def test_a_name_that_is_not_utf8_is_one_reject(folder: Path) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(folder), b"caf\xe9.mp4"))).write_bytes(b"x")
    listed = list_videos(str(folder))
    assert listed is not None
    assert listed.table.num_rows == 7
    assert [(row["row"], row["reason"]) for row in listed.rejects.to_pylist()] == [
        (7, "uri: the name caf\\xe9.mp4 is not UTF-8; rename the file")
    ]


def test_ids_have_the_texts_that_they_have_in_a_log(tmp_path: Path) -> None:
    for name in ("1.0.mp4", "True.mp4", "a.1.0.mp4", "007.mp4"):
        (tmp_path / name).write_bytes(b"x")
    listed = list_videos(str(tmp_path))
    assert listed is not None
    assert listed.table["video_id"].to_pylist() == ["007", "1", "true", "a.1.0"]


def test_files_of_a_folder_that_are_no_tables_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.csv", "b.jsonl.gz", "c.tsv", "d.gz", "_SUCCESS", ".d.csv.crc"):
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert list_tables(str(tmp_path)) == [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl.gz")]
    assert "files whose endings are not those of tables are left out: 2 (.gz: 1, .tsv: 1)" in caplog.text
