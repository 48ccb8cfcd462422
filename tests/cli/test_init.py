"""`rayrec init` writes a config that can be used, shows what it guessed, and overwrites nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayrec.cli import main
from rayrec.config import FilesData, load


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "videos.csv").write_text('id,title,tags\nv1,"[/i] and ]",a;b\nv2,two,b\n')
    (tmp_path / "log.csv").write_text("user,video,time,rating\nann,v1,1700000000,5\nann,v2,1700000001,2\n")
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_a_config_is_written_and_shown(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "videos.csv", "log.csv") == 0
    printed = capsys.readouterr().out
    for words in (" [/i] and ] ", "shown_at", "list_separator: ;", "from 4 on it counts", "rayrec run rayrec.yaml"):
        assert words in printed
    dataset = load(files / "rayrec.yaml").dataset
    assert isinstance(dataset, FilesData)
    assert (dataset.time_unit, dataset.list_separator, dataset.click_at_least) == ("auto", ";", 4)
    assert dataset.interactions_columns == {"user_id": "user", "video_id": "video", "shown_at": "time", "clicked": "rating"}


def test_nothing_is_overwritten(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "rayrec.yaml").write_text("seed: 1\n")
    assert run("init", "videos.csv") == 1
    assert "rayrec.yaml is there already" in capsys.readouterr().err
    assert (files / "rayrec.yaml").read_text() == "seed: 1\n"
    assert run("init", "videos.csv", "--to", "no/where.yaml") == 1
    assert "no/where.yaml can't be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "is empty, without even a header"),
        ("a.csv", b"id;title\n", "is separated by ';'; separate columns by commas"),
        ("a.csv", "id,title\n".encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        ("a.csv", b"id,title,title\n", "2 columns are named 'title'"),
        ("a.csv.gz", b"x", "can't be read as a table (Truncated compressed stream)"),
        ("a.xlsx", b"x", "tables must be .parquet, .csv or .jsonl files"),
        ("a.parquet", b"x", "can't be read as a table"),
    ],
)
def test_a_file_that_is_no_table_is_named(
    files: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, sentence: str
) -> None:
    (files / name).write_bytes(content)
    assert run("init", name) == 1
    assert sentence in capsys.readouterr().err
    assert not (files / "rayrec.yaml").exists()


def test_any_letters_work_with_any_encoding(files: Path) -> None:
    (files / "videos.csv").write_text("id,\u540d,title\nv1,x,\u65e5\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    command = [sys.executable, "-m", "rayrec.cli", "init", "videos.csv"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=files)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u65e5" in done.stdout
    assert load(files / "rayrec.yaml").dataset.kind == "files"
