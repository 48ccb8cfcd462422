"""What is guessed from a look at files is what the files were made with."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import ConfigError
from rayrec.datasets.guessing import guess
from tests.fixtures.logs import write_rows


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    path = tmp_path / "movies.csv"
    path.write_text(
        "movieId,Title,Thumbnail,genres,category,created_at\n1,One,1.jpg,drama;war,film,2024-01-31\n2,Two,,,film,2024-02-01\n"
    )
    return str(path)


def test_columns_and_separators(catalog: str, tmp_path: Path) -> None:
    log = tmp_path / "ratings.parquet"
    pq.write_table(
        pa.table({"userId": [7, 8], "movieId": [1, 2], "rating": [3.5, 5.0], "timestamp": [1_700_000_000, 1_700_000_100]}), log
    )
    found = guess(catalog, str(log))
    assert found.dataset == {
        "kind": "files",
        "catalog": catalog,
        "interactions": str(log),
        "catalog_columns": {
            "video_id": "movieId",
            "cover_uri": "Thumbnail",
            "title": "Title",
            "tags": "genres",
            "primary_class": "category",
            "published_at": "created_at",
        },
        "interactions_columns": {"user_id": "userId", "video_id": "movieId", "shown_at": "timestamp", "clicked": "rating"},
        "list_separator": ";",
        "click_at_least": 4.0,
    }
    assert ("interactions", "clicked", "rating", "3.5") in found.columns
    assert found.open == ["`clicked` is a number: from 4 on it counts as a click (click_at_least)."]


def test_seconds_watched_stand_for_clicks(catalog: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("uid,item_id,ts,watch_time\nann,1,1700000000,12.5\n")
    found = guess(catalog, str(tmp_path / "log.csv"))
    assert "clicked" not in found.dataset["interactions_columns"]
    assert found.dataset["click_rule"] == {"watch_s": 3}


def test_a_log_of_clicks_without_times(catalog: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("uid,item_id\nann,1\n")
    found = guess(catalog, str(tmp_path / "log.csv"))
    assert found.open == [
        f"No column of {tmp_path / 'log.csv'} looks like clicked, so every row counts as a click.",
        f"No column of {tmp_path / 'log.csv'} looks like shown_at, so the rows of each user are split at random.",
    ]


def test_what_can_not_be_guessed_is_said(catalog: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,movieId,timestamp,click\nann,1,1700000000,1\n")
    missing, unused = guess(catalog, str(tmp_path / "log.csv")).open
    assert missing.endswith("log.csv looks like user_id: say which in dataset.interactions_columns.")
    assert "log.csv: who. " in unused
    with pytest.raises(ConfigError, match=r"absent\.csv can't be read as a table"):
        guess(str(tmp_path / "absent.csv"))


def test_columns_without_a_place_are_named(tmp_path: Path) -> None:
    clips, log, people = tmp_path / "clips.csv", tmp_path / "log.csv", tmp_path / "people.csv"
    clips.write_text("Clip_ID,uploaded,rights,colour\nc1,2026-01-31,mine,red\n")
    log.write_text("member,clip_id,time,clicked,seconds_watched,app\nann,c1,1700000000,1,2.5,web\n")
    people.write_text("member,age\nann,31\n")
    found = guess(str(clips), str(log), str(people))
    assert found.dataset["catalog_columns"] == {"video_id": "Clip_ID", "published_at": "uploaded"}
    names = {"user_id": "member", "video_id": "clip_id", "shown_at": "time", "watch_s": "seconds_watched"}
    assert found.dataset["interactions_columns"] == names
    assert found.open == [
        f"Not used of {clips}: rights, colour. If one of them is a column of ours, map it in dataset.catalog_columns; "
        "the ranker reads others if ranker.item_fields names them.",
        f"Not used of {log}: app. If one of them is a column of ours, map it in dataset.interactions_columns; "
        "the ranker reads others if ranker.context_fields names them.",
    ]


def test_a_file_that_is_no_table_is_named(catalog: str, tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").touch()
    with pytest.raises(ConfigError, match=r"log\.xlsx: tables must be \.parquet, \.csv or \.jsonl files, not \.xlsx"):
        guess(catalog, str(tmp_path / "log.xlsx"))


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.zst", ".jsonl", ".json", ".ndjson.bz2"])
def test_other_formats_are_looked_at_too(catalog: str, tmp_path: Path, ending: str) -> None:
    rows = [{"userId": "u1", "movieId": 1, "rating": 3.5, "timestamp": 1_700_000_000}] * 3
    write_rows(tmp_path / f"log{ending}", rows)
    found = guess(catalog, str(tmp_path / f"log{ending}"))
    columns = {"user_id": "userId", "video_id": "movieId", "shown_at": "timestamp", "clicked": "rating"}
    assert found.dataset["interactions_columns"] == columns
    assert found.dataset["click_at_least"] == 2.8


def test_a_folder_of_videos_is_a_catalog(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert guess(str(tmp_path)).dataset == {"kind": "files", "catalog": str(tmp_path)}
