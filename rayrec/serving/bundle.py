"""The bundle: one folder with everything that serving loads, and a checksum of each file. It has no pickle.

    bundle.json       `BundleInfo`: what made the bundle, and the end of its log
    items.arrow       a row for each of the ranker's items except "no item": catalog, cover, topics, vector, counters
    topics.arrow      the words of each topic
    users.arrow       the last clicks and the last seen videos of each user of the log, as item indices, sorted by user id
    ranker/           the `Scorer` as it saves itself
    checksums.json    the SHA-256 of each of these files, written last

`Bundle` is what the HTTP ingress loads: it needs no torch and, on a local disk, maps its tables into memory instead of reading
them. `load_scorer` loads the ranker.
"""

import hashlib
import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from rayrec import __version__
from rayrec.errors import RayrecError
from rayrec.recall.items import ItemData, number_authors
from rayrec.recall.queues import ItemTopics
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

FORMAT = 3
FOLDER = "bundle"  # inside the folder of a version of the stage `publish`
ITEMS = pa.schema(
    {
        "video_id": pa.string(),
        "uri": pa.string(),
        "title": pa.string(),
        "tags": pa.list_(pa.string()),
        "author_id": pa.string(),
        "primary_class": pa.string(),
        "secondary_class": pa.string(),
        "published_at": pa.int64(),
        "duration_s": pa.float32(),
        "topics": pa.list_(pa.int32()),
        "similarity": pa.list_(pa.float32()),
        "exposures": pa.int64(),
        "clicks": pa.int64(),
        "cover_jpeg": pa.large_binary(),
        # Of length 1, or zeros for a video without a vector; null in all rows when the topics stage made no vectors.
        "vector": pa.large_list(pa.float32()),
    }
)
TOPICS = pa.schema({"topic": pa.int32(), "words": pa.list_(pa.string()), "videos": pa.int32()})
USERS = pa.schema(
    {
        "user_id": pa.string(),
        "clicked": pa.list_(pa.int32()),  # the last clicks, oldest first
        "clicked_at": pa.list_(pa.int64()),
        "seen": pa.list_(pa.int32()),  # the videos shown last
    }
)
TABLES = {"items": ITEMS, "topics": TOPICS, "users": USERS}


class BundleError(RayrecError):
    """A bundle is broken or incomplete; the message names the file and what to do."""


@dataclass(frozen=True)
class BundleInfo:
    """The content of bundle.json."""

    log_until: int  # UTC ms, the last impression of the log; events count from here on
    max_clicks: int  # how many clicks of a user recall and the ranker look at
    metrics: dict[str, float] = field(default_factory=dict)  # of this ranker, empty unless `evaluate` had run
    format: int = FORMAT
    rayrec: str = __version__


@dataclass(frozen=True)
class UserLog:
    """A user's part of the training log, as item indices."""

    clicked: np.ndarray  # int32, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32


UNKNOWN_USER = UserLog(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32))


@dataclass(frozen=True)
class Bundle:
    """Items are the ranker's item indices; item i is row i - 1 of `items`."""

    version: str
    info: BundleInfo
    items: pa.Table
    topics: pa.Table
    users: pa.Table

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str, version: str) -> Self:
        """Raises `BundleError` for a bundle of another format, and when a file is missing or is not the one that was published."""
        verify(fs, folder)
        info = _read_info(fs, folder)
        return cls(version, info, **{name: _read_table(fs, f"{folder}/{name}.arrow", schema) for name, schema in TABLES.items()})

    @cached_property
    def item_ids(self) -> list[str]:
        """The video id of each item; item 0 is "no item"."""
        return ["", *self.items["video_id"].to_pylist()]

    @cached_property
    def item_of(self) -> dict[str, int]:
        """The item of each video id."""
        return {video_id: item for item, video_id in enumerate(self.item_ids) if item}

    @cached_property
    def item_topics(self) -> ItemTopics:
        lists = self.items["topics"].combine_chunks()
        return ItemTopics.of_lists(pa.concat_arrays([pa.nulls(1, lists.type), lists]))

    @cached_property
    def authors(self) -> dict[str, int]:
        """A number from 1 for each author."""
        return number_authors(self.items["author_id"].combine_chunks())[0]

    @cached_property
    def author_of(self) -> np.ndarray:
        """The author of each item, int32 [I], 0 where it is unknown; `I` counts item 0."""
        return number_authors(self.items["author_id"].combine_chunks())[1]

    @cached_property
    def vectors(self) -> np.ndarray | None:
        """float32 [I - 1, size], item i in row i - 1; None when the bundle has no vectors."""
        column = self.items["vector"].combine_chunks()
        return None if column.null_count or not len(column) else column.flatten().to_numpy().reshape(len(column), -1)

    @cached_property
    def words(self) -> dict[int, list[str]]:
        """The most typical tags of each topic."""
        return {row["topic"]: row["words"] or [] for row in self.topics.to_pylist()}

    @cached_property
    def item_data(self) -> ItemData:
        """What recall needs of all items."""
        return ItemData(self.item_topics, self.author_of, lambda: self.vectors)

    def counters(self) -> tuple[np.ndarray, np.ndarray]:
        """Exposures and clicks of each item in the log, int64 [I] each; the arrays are copies that the caller may change."""
        return tuple(np.concatenate([[0], self.items[name].to_numpy()]) for name in ("exposures", "clicks"))  # type: ignore[return-value]

    def published_at(self) -> np.ndarray:
        """The publication time of each item: UTC ms, int64 [I], 0 where it is unknown."""
        return np.concatenate([[0], self.items["published_at"].fill_null(0).to_numpy()])

    def user(self, user_id: str) -> UserLog:
        """A user's part of the log; `UNKNOWN_USER` for users who are not in it."""
        ids, *columns = self._user_columns
        # A binary search needs no index of millions of users in memory.
        row = bisect_left(range(len(ids)), user_id, key=lambda index: ids[index].as_py())
        if row == len(ids) or ids[row].as_py() != user_id:
            return UNKNOWN_USER
        return UserLog(*(column[row].values.to_numpy() for column in columns))

    def top_users(self, count: int) -> list[str]:
        """The users with the longest lists of clicks in the bundle."""
        ids, clicked, *_ = self._user_columns
        rows = np.argsort(-clicked.value_lengths().to_numpy(), kind="stable")[:count]
        return cast(list[str], ids.take(pa.array(rows)).to_pylist())

    def facts_of(self, items: np.ndarray) -> list[dict[str, Any]]:
        """The catalog's row of each item, without cover and vector."""
        return cast(list[dict[str, Any]], self._plain_items.take(pa.array(items - 1)).to_pylist())

    def cover(self, item: int) -> bytes | None:
        """The JPEG of an item's cover, None for an item without one."""
        return cast(bytes | None, self.items["cover_jpeg"][item - 1].as_py())

    @cached_property
    def _plain_items(self) -> pa.Table:
        has_cover = self.items["cover_jpeg"].is_valid()
        return self.items.drop_columns(["cover_jpeg", "vector"]).append_column("has_cover", has_cover)

    @cached_property
    def _user_columns(self) -> list[pa.Array]:
        return [self.users[name].combine_chunks() for name in USERS.names]


def load_scorer(fs: pafs.FileSystem, folder: str) -> "Scorer":
    """Loads the ranker. Raises `BundleError` as `Bundle.load` does."""
    from rayrec.ranking.scorer import Scorer  # imports torch, which the ingress does not need

    verify(fs, folder, "ranker/")
    _read_info(fs, folder)  # for its check of the format
    return Scorer.load(fs, f"{folder}/ranker")


def locate(workspace: Workspace, version: str | None) -> tuple[str, str]:
    """The version and the folder of a published bundle, of the current one when no version is given.

    Raises `WorkspaceError` when nothing has been published, and `BundleError` when this version has not.
    """
    current = workspace.folder("publish")
    if version is None:
        return current.rsplit("/", 1)[1], f"{current}/{FOLDER}"
    if version not in {manifest.version for manifest in workspace.versions("publish")}:
        raise BundleError(f"workspace {workspace.uri} holds no bundle {version!r}; run `rayrec publish`")
    return version, f"{workspace.root}/publish/{version}/{FOLDER}"


def write(fs: pafs.FileSystem, folder: str, info: BundleInfo, tables: dict[str, pa.Table], scorer: "Scorer") -> None:
    """Writes a bundle of these tables and this ranker into an empty folder. The caller makes it visible."""
    scorer.save(fs, f"{folder}/ranker")
    with fs.open_output_stream(f"{folder}/bundle.json") as stream:
        stream.write(json.dumps(asdict(info)).encode())
    for name, schema in TABLES.items():
        table = tables[name].select(schema.names).cast(schema).combine_chunks()
        # One uncompressed batch, so that the file can be mapped into memory and its lists read in place.
        with fs.open_output_stream(f"{folder}/{name}.arrow") as stream, pa.ipc.new_file(stream, schema) as writer:
            writer.write_table(table)
    files = [item.path for item in fs.get_file_info(pafs.FileSelector(folder, recursive=True)) if item.is_file]
    checksums = {path.removeprefix(f"{folder}/"): _checksum(fs, path) for path in sorted(files)}
    with fs.open_output_stream(f"{folder}/checksums.json") as stream:
        stream.write(json.dumps(checksums, indent=1).encode())


def verify(fs: pafs.FileSystem, folder: str, prefix: str = "") -> None:
    """Checks the files whose names begin with `prefix`. Raises `BundleError` at the first whose checksum differs."""
    checksums = _read_json(fs, f"{folder}/checksums.json")
    for name, expected in checksums.items():
        if name.startswith(prefix) and _checksum(fs, f"{folder}/{name}") != expected:
            raise BundleError(
                f"{folder}/{name} is not the file that was published (its checksum differs); run `rayrec publish` again"
            )


def _read_info(fs: pafs.FileSystem, folder: str) -> BundleInfo:
    info = _read_json(fs, f"{folder}/bundle.json")
    if (found := info.get("format")) != FORMAT:  # before the fields are read: another format may have other ones
        raise BundleError(
            f"{folder}: the bundle has format {found}, but this version of rayrec reads {FORMAT}; run `rayrec publish` again"
        )
    return BundleInfo(**info)


def _checksum(fs: pafs.FileSystem, path: str) -> str:
    return hashlib.sha256(_read(fs, path)).hexdigest()


def _read(fs: pafs.FileSystem, path: str) -> pa.Buffer:
    try:
        if isinstance(fs, pafs.LocalFileSystem):
            return pa.memory_map(path).read_buffer()
        with fs.open_input_stream(path) as stream:
            return pa.py_buffer(stream.read())
    except FileNotFoundError as error:
        raise BundleError(f"{path}: the bundle lacks this file; run `rayrec publish` again") from error


def _read_json(fs: pafs.FileSystem, path: str) -> dict[str, Any]:
    text = _read(fs, path).to_pybytes()
    try:
        return cast(dict[str, Any], json.loads(text))
    except ValueError as error:
        raise BundleError(f"{path} is broken ({error}); run `rayrec publish` again") from error


def _read_table(fs: pafs.FileSystem, path: str, schema: pa.Schema) -> pa.Table:
    table = pa.ipc.open_file(_read(fs, path)).read_all()
    if not table.schema.equals(schema):
        raise BundleError(f"{path}: its columns are not those that this version of rayrec reads; run `rayrec publish` again")
    return table
