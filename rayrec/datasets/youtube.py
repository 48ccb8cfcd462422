"""Reads Kaggle's table of videos that trended on YouTube (`USvideos.csv`, autumn 2017): titles, tags and categories, without a log.

The table has a row for each day on which a video trended; the latest row describes the video. The file has been through a
spreadsheet, and the damage is repaired here. The spreadsheet read ids that begin with `-` as formulas (`#NAME?`; the address of the
thumbnail still has the id) and dates as numbers (`10.1` is 10 October). The table has neither the year nor the time of publication.
"""

import logging
import re

import pyarrow as pa

from rayrec import tables
from rayrec.config import YouTubeData
from rayrec.datasets.conversion import Conventions, convert_rows
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.delimited import read_csv
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Source
from rayrec.tables import TEXT, TableError
from rayrec.workspace.stage import StageRun

# Our column -> the column of the file.
COLUMNS = {
    "video_id": "video_id",
    "title": "title",
    "tags": "tags",
    "primary_class": "category_id",
    "author_id": "channel_title",
}
CATEGORIES = {
    "1": "Film & Animation",
    "2": "Autos & Vehicles",
    "10": "Music",
    "15": "Pets & Animals",
    "17": "Sports",
    "19": "Travel & Events",
    "20": "Gaming",
    "22": "People & Blogs",
    "23": "Comedy",
    "24": "Entertainment",
    "25": "News & Politics",
    "26": "Howto & Style",
    "27": "Education",
    "28": "Science & Technology",
    "29": "Nonprofits & Activism",
    "43": "Shows",
}
NO_TAGS = "[none]"
ID = re.compile(r"[\w-]{11}", re.ASCII)
ID_IN_THUMBNAIL = re.compile(r"/vi/([\w-]{11})/", re.ASCII)

log = logging.getLogger(__name__)


def read(settings: YouTubeData, run: StageRun) -> RawDataset:
    """A catalog, and a log without rows."""
    no_log = SourceTable.of("no interactions", tables.empty("interactions"))
    return RawDataset(Source.of(read_catalog(settings.path)), Source.of(no_log))


def read_catalog(path: str) -> SourceTable:
    """The catalog. Raises `TableError` when the file can't be read or lacks a column."""
    raw = read_csv(path)
    for column in (*COLUMNS.values(), "thumbnail_link", "date"):
        if column not in raw.table.column_names:
            raise TableError(f"{raw.source}: there is no column {column!r}; give Kaggle's USvideos.csv of 2017")
    catalog = convert_rows("catalog", _latest(raw), COLUMNS, Conventions())
    classes = [CATEGORIES.get(number, number) for number in catalog.table["primary_class"].to_pylist()]
    tags = [None if words is None else _tags(words) for words in catalog.table["tags"].to_pylist()]
    for column, values in (("primary_class", pa.array(classes, TEXT)), ("tags", pa.array(tags, pa.list_(TEXT)))):
        catalog.table = catalog.table.set_column(catalog.table.schema.get_field_index(column), column, values)
    return catalog


def _latest(raw: SourceTable) -> SourceTable:
    """The latest row of each video, with its repaired id. Rows without an id or a date are rejected."""
    ids, thumbnails, dates = (
        [(cell or b"").decode(errors="replace") for cell in raw.table[column].to_pylist()]
        for column in ("video_id", "thumbnail_link", "date")
    )
    repaired = [_repaired_id(video, thumbnail) for video, thumbnail in zip(ids, thumbnails, strict=True)]
    days = [_month_and_day(date) for date in dates]
    reasons = {row: f"date: {dates[row]!r} is not a day and a month such as 28.09" for row, day in enumerate(days) if day is None}
    reasons |= {
        row: f"video_id: {ids[row][:80]!r} is not a YouTube id, and thumbnail_link has none"
        for row, video in enumerate(repaired)
        if video is None
    }
    latest: dict[str, tuple[tuple[int, int], int]] = {}
    for row, (video, day) in enumerate(zip(repaired, days, strict=True)):
        if video is not None and day is not None:
            latest[video] = max(latest.get(video, (day, row)), (day, row))
    kept = sorted({row for _, row in latest.values()} | set(reasons))
    log.info("%s: %d rows are left out, because the video has a later one", raw.source, len(ids) - len(kept))
    names = pa.array([repaired[row] or ids[row] for row in kept], TEXT)
    table = raw.table.take(pa.array(kept, pa.int64()))
    table = table.set_column(table.schema.get_field_index("video_id"), "video_id", names)
    latest_rows = SourceTable(raw.source, table, raw.rows[kept], raw.rejected)
    latest_rows.reject({kept.index(row): reason for row, reason in reasons.items()}, "video_id")
    return latest_rows


def _repaired_id(video: str, thumbnail: str) -> str | None:
    if ID.fullmatch(video):
        return video
    found = ID_IN_THUMBNAIL.search(thumbnail)
    return found[1] if found else None


def _month_and_day(date: str) -> tuple[int, int] | None:
    """`28.09` -> (9, 28), `10.1` -> (10, 10); None for text that is not a date."""
    parts = re.fullmatch(r"(\d{1,2})\.(\d{1,2})", date, re.ASCII)
    if not parts:
        return None
    day, month = int(parts[1]), int(parts[2].ljust(2, "0"))
    return (month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None


def _tags(words: list[str]) -> list[str]:
    """The tags in lower case, as YouTube compares them, each of them once."""
    return list(dict.fromkeys(word.lower() for word in words if word != NO_TAGS))


DATASET = Dataset(read, files=lambda settings: [settings.path])
