"""Guesses the section `dataset` from a look at one's files: the columns, what splits tags, what a click is.

A guess is shown to the user, who knows better.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import ConfigError
from rayrec.datasets.delimited import check_format, check_names
from rayrec.datasets.json_lines import json_blocks
from rayrec.datasets.reading import FORMATS, TABLE_ENDINGS
from rayrec.datasets.source import Limits
from rayrec.workspace.files import endings, open_stream

LOOKED_AT = 1000  # rows of each file
JSON_BYTES = 2**20  # of JSON lines
# What others call our columns, the likeliest first, in lower-case letters and digits.
NAMES = {
    "video_id": ("videoid", "video", "vid", "itemid", "item", "movieid", "clipid", "clip", "contentid", "postid", "id"),
    "user_id": ("userid", "user", "uid", "viewerid", "viewer", "memberid", "member", "visitorid", "accountid"),
    "shown_at": ("shownat", "timestamp", "ts", "time", "timems", "eventtime", "datetime", "date", "createdat", "impressiontime"),
    "clicked": ("clicked", "click", "isclick", "label", "rating", "stars", "score", "liked", "islike", "like"),
    "watch_s": (
        "watchs",
        "watchtime",
        "watchseconds",
        "watchedseconds",
        "secondswatched",
        "playtime",
        "playduration",
        "playingtime",
        "dwelltime",
        "watched",
    ),
    "request_id": ("requestid", "pageid", "impressionid", "sessionid"),
    "uri": ("uri", "url", "path", "file", "filename", "videopath", "videourl"),
    "cover_uri": (
        "coveruri",
        "coverurl",
        "cover",
        "thumbnail",
        "thumbnailuri",
        "thumbnailurl",
        "thumbnaillink",
        "poster",
        "imageurl",
    ),
    "title": ("title", "name", "caption", "videotitle", "headline"),
    "tags": ("tags", "tag", "keywords", "hashtags", "genres", "labels"),
    "author_id": ("authorid", "author", "creatorid", "creator", "channelid", "channel", "channeltitle", "uploader", "artist"),
    "primary_class": ("primaryclass", "category", "categoryid", "class", "genre", "topic"),
    "secondary_class": ("secondaryclass", "subcategory", "subclass", "subgenre"),
    "published_at": (
        "publishedat",
        "publishtime",
        "published",
        "publishdate",
        "uploadtime",
        "uploadedat",
        "uploaded",
        "uploaddate",
        "createdat",
        "releasedate",
    ),
    "duration_s": ("durations", "duration", "length", "videoduration", "seconds"),
}
SEPARATORS = ("|", ",", ";", "/")
BOOLEANS = {"0", "1", "0.0", "1.0", "true", "false", "t", "f", "yes", "no", ""}
WATCHED_S = 3.0  # a video that was watched for so long counts as clicked, as it does in the feed


@dataclass
class Guess:
    """The section `dataset`, and how it came about."""

    dataset: dict[str, Any]
    columns: list[tuple[str, str, str, str]] = field(default_factory=list)  # table, our column, the file's column, an example
    open: list[str] = field(default_factory=list)  # sentences about what the user must add or check


def guess(catalog: str, interactions: str | None = None, users: str | None = None) -> Guess:
    """Raises `ConfigError` or `TableError` for a file that can't be read."""
    given = {"catalog": catalog, "interactions": interactions, "users": users}
    found = Guess({"kind": "files"} | {name: path for name, path in given.items() if path})
    heads = {name: _head(Path(path)) for name, path in given.items() if path}
    for name, head in heads.items():
        if head:  # not a folder of videos
            _guess_columns(found, name, head)
    _guess_separator(found, heads["catalog"])
    for name in ("catalog", "interactions"):
        _name_unused(found, name, heads.get(name, {}))
    if "interactions" in heads:
        _guess_click(found, heads["interactions"])
    return found


def _guess_columns(found: Guess, name: str, head: dict[str, list[Any]]) -> None:
    """Finds our columns among those of a table; a column of the file is taken once."""
    spec = tables.spec_of(name)
    mapping: dict[str, str] = {}
    normalised = {re.sub("[^a-z0-9]", "", column.lower()): column for column in reversed(head)}
    for ours in spec.schema.names:
        wanted = (re.sub("_", "", ours), *NAMES.get(ours, ()))
        free = (normalised[each] for each in wanted if each in normalised and normalised[each] not in mapping.values())
        theirs = next(free, None)
        if theirs is not None:
            mapping[ours] = theirs
            found.columns.append((name, ours, theirs, str(next(filter(None, head[theirs]), ""))[:40]))
        elif not spec.schema.field(ours).nullable and ours not in ("shown_at", "clicked"):
            found.open.append(f"No column of {found.dataset[name]} looks like {ours}: say which in dataset.{name}_columns.")
    if name == "interactions":
        _guess_what_lacks(found, mapping)
    renamed = {ours: theirs for ours, theirs in mapping.items() if ours != theirs}
    if renamed:
        found.dataset[f"{name}_columns"] = renamed


def _guess_what_lacks(found: Guess, mapping: dict[str, str]) -> None:
    """Says what becomes of a log without clicks or times."""
    log = found.dataset["interactions"]
    if "clicked" not in mapping and "watch_s" in mapping:
        found.dataset["click_rule"] = {"watch_s": WATCHED_S}
        found.open.append(f"There are no clicks, so a video that was watched for {WATCHED_S:g} s counts as clicked (click_rule).")
    elif "clicked" not in mapping:
        found.open.append(f"No column of {log} looks like clicked, so every row counts as a click.")
    if "shown_at" not in mapping:
        found.open.append(f"No column of {log} looks like shown_at, so the rows of each user are split at random.")


def _name_unused(found: Guess, name: str, head: dict[str, list[Any]]) -> None:
    """Says which columns of a table have no place among ours. Those of `users` all become fields of the ranker."""
    used = {theirs for table, _, theirs, _ in found.columns if table == name}
    unused = ", ".join(column for column in head if column not in used)
    option = "ranker.item_fields" if name == "catalog" else "ranker.context_fields"
    if unused:
        found.open.append(
            f"Not used of {found.dataset[name]}: {unused}. If one of them is a column of ours, map it in dataset.{name}_columns; "
            f"the ranker reads others if {option} names them."
        )


def _guess_separator(found: Guess, head: dict[str, list[Any]]) -> None:
    texts = [value for value in _column(found, head, "catalog", "tags") if isinstance(value, str)]
    counts = {separator: sum(separator in text for text in texts) for separator in SEPARATORS}
    best = max(SEPARATORS, key=lambda separator: counts[separator])
    if counts[best] and best != "|":
        found.dataset["list_separator"] = best


def _guess_click(found: Guess, head: dict[str, list[Any]]) -> None:
    values = _column(found, head, "interactions", "clicked")
    numbers = _numbers(values)
    if "click_at_least" not in found.dataset and numbers and not {str(value).lower() for value in values} <= BOOLEANS:
        found.dataset["click_at_least"] = round(0.8 * max(numbers), 1) if max(numbers) <= 10 else median(numbers)
        found.open.append(
            f"`clicked` is a number: from {found.dataset['click_at_least']:g} on it counts as a click (click_at_least)."
        )


def _column(found: Guess, head: dict[str, list[Any]], name: str, ours: str) -> list[Any]:
    """The values of one of our columns, without those that are missing."""
    theirs = found.dataset.get(f"{name}_columns", {}).get(ours, ours)
    return [value for value in head.get(theirs, []) if value is not None and value != ""]


def _numbers(values: Iterable[Any]) -> list[float]:
    """The values as numbers; none if one of them is something else, such as a date."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return []


def _head(path: Path) -> dict[str, list[Any]]:
    """The first rows of a table, or of the first table in a folder; nothing for a folder without tables.

    Raises `ConfigError` or `TableError` for a file that can't be read.
    """
    if path.is_dir():
        files = (file for file in path.iterdir() if not file.name.startswith((".", "_")))
        inside = sorted(file for file in files if file.name.lower().endswith(TABLE_ENDINGS))
        return _head(inside[0]) if inside else {}
    ending, packed = endings(str(path))
    if path.exists() and not path.name.lower().endswith((*TABLE_ENDINGS, ".json")):
        raise ConfigError(f"{path}: tables must be {FORMATS} files, not {ending + packed or 'a file without an ending'}")
    try:
        path.stat()
        if ending == ".parquet":
            with pq.ParquetFile(path) as file:
                batch = next(file.iter_batches(LOOKED_AT), None)
                return batch.to_pydict() if batch else {name: [] for name in file.schema_arrow.names}
        if ending != ".csv":
            block = next(json_blocks(str(path), Limits(block_bytes=JSON_BYTES)))
            return block.table.slice(0, LOOKED_AT).to_pydict()
        with open_stream(str(path), ConfigError) as file:
            check_format(str(path), file.read(4))
        with open_stream(str(path), ConfigError) as file:
            reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
            if not (names := list(reader.fieldnames or ())):
                raise ConfigError(f"{path} is empty, without even a header")
            check_names(str(path), names)
            rows = list(itertools.islice(reader, LOOKED_AT))
            return {name: [row[name] for row in rows] for name in names}
    except (OSError, csv.Error, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path} can't be read as a table ({error}); give a {FORMATS} file, or a folder") from error
