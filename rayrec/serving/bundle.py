"""The bundle: one folder with all that serving loads, each file with its checksum. No pickle.

    bundle.json       what made it, and the end of the log that it knows
    items.arrow       a row for each of the ranker's items but "no item": what the catalog says, cover, topics, vector, counters
    topics.arrow      the words of each topic
    users.arrow       what each user of the log clicked and saw last, as item indices; in the order of their ids
    ranker/           the `Scorer`, as it saves itself
    checksums.json    SHA-256 of each of the above, written last

`Bundle` is the ingress's half: it needs no torch and, on a local disk, maps its tables into memory instead of reading them.
`load_scorer` is the ranker's half.
"""

import hashlib
import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rayrec import __version__
from rayrec.errors import RayrecError
from rayrec.recall.queues import ItemTopics
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

FORMAT = 2
FOLDER = "bundle"  # in the folder of a version of the stage `publish`
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
        # Of length 1, or zeros for a video without one; null in all rows where the topics stage made none.
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
class Facts:
    """The content of bundle.json."""

    log_until: int  # UTC ms; the log's last impression. Events count from here on.
    max_clicks: int  # of a user that recall and the ranker look at
    metrics: dict[str, float] = field(default_factory=dict)  # of this ranker, where `evaluate` had run
    format: int = FORMAT
    rayrec: str = __version__


@dataclass(frozen=True)
class UserLog:
    """What the training log says of one user, as item indices."""

    clicked: np.ndarray  # int32, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32


NOBODY = UserLog(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32))


@dataclass(frozen=True)
class Bundle:
    """Items are the ranker's item indices; item i stands in row i - 1 of `items`."""

    version: str
    facts: Facts
    items: pa.Table
    topics: pa.Table
    users: pa.Table

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str, version: str) -> Self:
        """Raises `BundleError` when a file is missing or is not what was published."""
        verify(fs, folder)
        facts = Facts(**_read_json(fs, f"{folder}/bundle.json"))
        if facts.format != FORMAT:
            raise BundleError(
                f"{folder}: the bundle has format {facts.format}, this rayrec reads {FORMAT}; run `rayrec publish` again"
            )
        return cls(version, facts, **{name: _read_table(fs, f"{folder}/{name}.arrow", schema) for name, schema in TABLES.items()})

    @cached_property
    def item_ids(self) -> list[str]:
        """The video of each item; item 0 is "no item"."""
        return ["", *self.items["video_id"].to_pylist()]

    @cached_property
    def item_of(self) -> dict[str, int]:
        """The item of each video."""
        return {video_id: item for item, video_id in enumerate(self.item_ids) if item}

    @cached_property
    def item_topics(self) -> ItemTopics:
        lists = self.items["topics"].combine_chunks()
        return ItemTopics.of_lists(pa.concat_arrays([pa.nulls(1, lists.type), lists]))

    @cached_property
    def authors(self) -> dict[str, int]:
        """A number from 1 for each author."""
        names = self.items["author_id"].combine_chunks().unique().drop_null().to_pylist()
        return {name: number for number, name in enumerate(names, start=1)}

    @cached_property
    def author_of(self) -> np.ndarray:
        """The author of each item, int32 [I + 1], 0 where it is unknown."""
        found = pc.index_in(self.items["author_id"], value_set=pa.array(list(self.authors), pa.string()))
        return np.append(0, found.fill_null(-1).to_numpy() + 1).astype(np.int32)

    @cached_property
    def vectors(self) -> np.ndarray | None:
        """float32 [I, size], item i in row i - 1; None where there are none."""
        column = self.items["vector"].combine_chunks()
        return None if column.null_count or not len(column) else column.flatten().to_numpy().reshape(len(column), -1)

    @cached_property
    def words(self) -> dict[int, list[str]]:
        """The most typical tags of each topic."""
        return {row["topic"]: row["words"] or [] for row in self.topics.to_pylist()}

    def counters(self) -> tuple[np.ndarray, np.ndarray]:
        """Exposures and clicks of each item in the log, int64 [I + 1]; fresh copies."""
        return tuple(np.concatenate([[0], self.items[name].to_numpy()]) for name in ("exposures", "clicks"))  # type: ignore[return-value]

    def published_at(self) -> np.ndarray:
        """UTC ms, int64 [I + 1], 0 where unknown."""
        return np.concatenate([[0], self.items["published_at"].fill_null(0).to_numpy()])

    def user(self, user_id: str) -> UserLog:
        ids, *columns = self._user_columns
        # Without an index of millions of users in memory.
        row = bisect_left(range(len(ids)), user_id, key=lambda place: ids[place].as_py())
        if row == len(ids) or ids[row].as_py() != user_id:
            return NOBODY
        return UserLog(*(column[row].values.to_numpy() for column in columns))

    def busiest_users(self, count: int) -> list[str]:
        """The users with the most clicks in the log, as far as the bundle keeps them."""
        ids, clicked, *_ = self._user_columns
        most = np.argsort(-clicked.value_lengths().to_numpy(), kind="stable")[:count]
        return cast(list[str], ids.take(pa.array(most)).to_pylist())

    def facts_of(self, items: np.ndarray) -> list[dict[str, Any]]:
        """What the catalog says of each item, without its cover and vector."""
        return cast(list[dict[str, Any]], self._plain_items.take(pa.array(items - 1)).to_pylist())

    def cover(self, item: int) -> bytes | None:
        return cast(bytes | None, self.items["cover_jpeg"][item - 1].as_py())

    @cached_property
    def _plain_items(self) -> pa.Table:
        has_cover = self.items["cover_jpeg"].is_valid()
        return self.items.drop_columns(["cover_jpeg", "vector"]).append_column("has_cover", has_cover)

    @cached_property
    def _user_columns(self) -> list[pa.Array]:
        return [self.users[name].combine_chunks() for name in USERS.names]


def load_scorer(fs: pafs.FileSystem, folder: str) -> "Scorer":
    """The bundle's ranker. Raises `BundleError` when one of its files is missing or is not what was published."""
    from rayrec.ranking.scorer import Scorer  # torch, which the ingress does without

    verify(fs, folder, "ranker/")
    return Scorer.load(fs, f"{folder}/ranker")


def locate(workspace: Workspace, version: str | None) -> tuple[str, str]:
    """The version and the folder of a published bundle, the current one when no version is given.

    Raises `WorkspaceError` when nothing has been published, `BundleError` when this version has not.
    """
    current = workspace.folder("publish")
    if version is None:
        return current.rsplit("/", 1)[1], f"{current}/{FOLDER}"
    if version not in {manifest.version for manifest in workspace.versions("publish")}:
        raise BundleError(f"workspace {workspace.uri} holds no bundle {version!r}; run `rayrec publish`")
    return version, f"{workspace.root}/publish/{version}/{FOLDER}"


def write(fs: pafs.FileSystem, folder: str, facts: Facts, tables: dict[str, pa.Table], scorer: "Scorer") -> None:
    """Make a bundle in an empty folder from its tables and the ranker. The caller makes it visible."""
    scorer.save(fs, f"{folder}/ranker")
    with fs.open_output_stream(f"{folder}/bundle.json") as stream:
        stream.write(json.dumps(asdict(facts)).encode())
    for name, schema in TABLES.items():
        table = tables[name].select(schema.names).cast(schema).combine_chunks()
        # One batch, uncompressed, so that the file can be mapped and its lists addressed as they lie.
        with fs.open_output_stream(f"{folder}/{name}.arrow") as stream, pa.ipc.new_file(stream, schema) as writer:
            writer.write_table(table)
    files = [item.path for item in fs.get_file_info(pafs.FileSelector(folder, recursive=True)) if item.is_file]
    checksums = {path.removeprefix(f"{folder}/"): _checksum(fs, path) for path in sorted(files)}
    with fs.open_output_stream(f"{folder}/checksums.json") as stream:
        stream.write(json.dumps(checksums, indent=1).encode())


def verify(fs: pafs.FileSystem, folder: str, prefix: str = "") -> None:
    """Compare the files whose names begin with `prefix` with their checksums. Raises `BundleError` at the first that differs."""
    checksums = _read_json(fs, f"{folder}/checksums.json")
    for name, expected in checksums.items():
        if name.startswith(prefix) and _checksum(fs, f"{folder}/{name}") != expected:
            raise BundleError(
                f"{folder}/{name} is not the file that was published (its checksum differs); run `rayrec publish` again"
            )


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
        raise BundleError(f"{path}: its columns are not those that this rayrec reads; run `rayrec publish` again")
    return table
