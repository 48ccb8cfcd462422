"""The bundle: one folder with everything that serving loads, and a checksum of each file. It has no pickle.

    bundle.json       `BundleInfo`: what made the bundle, and the end of its log
    items.arrow       a row for each of the ranker's items except "no item": catalog, place of the cover, topics, vector, counters
    topics.arrow      the words of each topic
    users.arrow       the last clicks and the last seen videos of each user of the log, as item indices, sorted by user id
    neighbours.arrow  what goes with each item, vectors.arrow its vectors, and tower.arrow their content tower, by a collaborative
                      model (`rayrec.serving.learned`); not in every bundle
    ranker/           the `Scorer` as it saves itself; not in the bundle of a catalog without a log
    search/           the index of the videos by words, pictures and sounds (`rayrec.serving.searching`), if there is one
    music/            tracks, and what users are predicted to think of them (`rayrec.serving.music`); not in every bundle
    placing/          what describes a new video as the items are described (`rayrec.serving.placing`); not in every bundle
    checksums.json    the SHA-256 of each of these files, written last

`Bundle` is what the HTTP ingress loads: it needs no torch, and maps its tables into memory instead of reading them. `load_scorer`
loads the ranker and nothing else. The covers are beside the bundle (`rayrec.serving.covers`); each is read when it is asked for.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from rayrec import __version__
from rayrec.config import ConfigError, Formula
from rayrec.errors import RayrecError
from rayrec.recall.items import number_authors
from rayrec.recall.neighbours import Neighbours
from rayrec.recall.queues import ItemTopics
from rayrec.recall.vectors import Vectors
from rayrec.serving import covers, learned, music, user_log
from rayrec.serving.music import Music
from rayrec.serving.user_log import USERS, UserLog, UserLogs
from rayrec.tables import BYTES, TEXT
from rayrec.workspace import node_copies
from rayrec.workspace.files import checksum, from_json, make_folder_of, to_json
from rayrec.workspace.stores import in_words
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    from rayrec.ranking.scorer import Scorer

FORMAT = 6
# A bundle of format 5 always has a ranker. One of format 4 has the covers in a column of items.arrow, and one of format 3 does not
# know which export its log contains.
READABLE = (3, 4, 5, FORMAT)
PLACING = "placing/"  # the folder of what describes new videos
FOLDER = "bundle"  # inside the folder of a version of the stage `publish`
FACTS = {
    "video_id": TEXT,
    "uri": TEXT,
    "title": TEXT,
    "tags": pa.list_(TEXT),
    "author_id": TEXT,
    "primary_class": TEXT,
    "secondary_class": TEXT,
    "published_at": pa.int64(),
    "duration_s": pa.float32(),
    "topics": pa.list_(pa.int32()),
    "similarity": pa.list_(pa.float32()),
    "exposures": pa.int64(),
    "clicks": pa.int64(),
}
# Of length 1, or zeros for a video without a vector; null in all rows when the topics stage made no vectors.
VECTOR = {"vector": pa.large_list(pa.float32())}
ITEMS = pa.schema(FACTS | covers.PLACE | VECTOR)
ITEMS_WITH_COVERS = pa.schema(FACTS | {"cover_jpeg": BYTES} | VECTOR)  # before format 5
TOPICS = pa.schema({"topic": pa.int32(), "words": pa.list_(TEXT), "videos": pa.int32()})
TABLES = {"items": ITEMS, "topics": TOPICS, "users": USERS}
ALL_TABLES = TABLES | learned.TABLES | music.TABLES
SEARCH_VECTORS = "search/vectors.npy"  # the ingress reads it for music alone


class BundleError(RayrecError):
    """A bundle is broken or incomplete; the message names the file and what to do."""


@dataclass(frozen=True)
class BundleInfo:
    """The content of bundle.json."""

    log_until: int  # UTC ms, the last impression of the log; events count from here on, unless `log_upto` says it better
    max_clicks: int  # how many clicks of a user recall and the ranker look at
    metrics: dict[str, float | None] = field(default_factory=dict)  # of this ranker, empty unless `evaluate` had run
    format: int = FORMAT
    rayrec: str = __version__
    log_upto: int | None = None  # the number of the last event that the log takes into account, if it contains an export
    has_ranker: bool = True  # without one, the videos of a page are in the order of recall
    goals: list[str] = field(default_factory=list)  # of the ranker, if it has several


@dataclass(frozen=True)
class Bundle:
    """Items are the ranker's item indices; item i is row i - 1 of `items`."""

    version: str
    info: BundleInfo
    fs: pafs.FileSystem
    covers_folder: str  # inside `fs`
    items: pa.Table
    topics: pa.Table
    users: UserLogs
    learned: Mapping[str, pa.Table] = field(default_factory=dict)  # of `learned.TABLES`, those that the bundle has
    model: str = ""  # the fingerprint of what describes new videos, which bundles may share; "" for a bundle without it
    music: Music | None = None  # None for a bundle without any

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str, version: str, copies: Path | None = None) -> Self:
        """The tables of a bundle, without its ranker. They are mapped into memory; those of an object store are copied first.

        The copies are in a folder below `copies`, which processes may share; without one they are in memory. Raises `BundleError`
        for a bundle of another format, and when a file is missing or is not the one that was published.
        """
        info = verify(fs, folder, "bundle.json")
        tables, matrix = _load_tables(fs, folder, info, copies)
        items, topics, users = (tables.pop(name) for name in TABLES)
        if not items.num_rows:
            raise BundleError(
                f"{folder} holds no video, so it would answer nothing; run `rayrec ingest CONFIG` and `rayrec publish CONFIG` again"
            )
        root, model = folder.rsplit("/", 3)[0], model_of(fs, folder)
        found, fitted = Music.of(tables, matrix), {name: tables[name] for name in learned.TABLES if name in tables}
        return cls(version, info, fs, f"{root}/{covers.FOLDER}", items, topics, UserLogs(users), fitted, model, found)

    @cached_property
    def item_ids(self) -> list[str]:
        """The video id of each item; item 0 is "no item"."""
        return ["", *self._column("video_id").to_pylist()]

    @cached_property
    def item_of(self) -> dict[str, int]:
        """The item of each video id."""
        return {video_id: item for item, video_id in enumerate(self.item_ids) if item}

    @cached_property
    def item_topics(self) -> ItemTopics:
        lists = self._column("topics")
        return ItemTopics.of_lists(pa.concat_arrays([pa.nulls(1, lists.type), lists]))

    @cached_property
    def authors(self) -> dict[str, int]:
        """A number from 1 for each author."""
        return number_authors(self._column("author_id"))[0]

    @cached_property
    def author_of(self) -> np.ndarray:
        """The author of each item, int32 [I], 0 where it is unknown; `I` counts item 0."""
        return number_authors(self._column("author_id"))[1]

    @cached_property
    def vectors(self) -> np.ndarray | None:
        """float32 [I - 1, size], item i in row i - 1; None when the bundle has no vectors."""
        column = self._column("vector")
        return None if column.null_count or not len(column) else column.flatten().to_numpy().reshape(len(column), -1)

    @cached_property
    def neighbours(self) -> Neighbours | None:
        """What goes with each item; None when no collaborative model was published."""
        return learned.neighbours_of(self.learned)

    @cached_property
    def user_vectors(self) -> Vectors | None:
        """The vectors of a collaborative model; None when none was published, or one without vectors."""
        return learned.vectors_of(self.learned)

    @cached_property
    def words(self) -> dict[int, list[str]]:
        """The most typical tags of each topic."""
        return {row["topic"]: row["words"] or [] for row in self.topics.to_pylist()}

    def counters(self) -> tuple[np.ndarray, np.ndarray]:
        """Exposures and clicks of each item in the log, int64 [I] each; the arrays are copies that the caller may change."""
        return tuple(np.concatenate([[0], self.items[name].to_numpy()]) for name in ("exposures", "clicks"))  # type: ignore[return-value]

    def published_at(self) -> np.ndarray:
        """The publication time of each item: UTC ms, int64 [I], 0 where it is unknown."""
        return np.concatenate([[0], self.items["published_at"].fill_null(0).to_numpy()])

    def formula(self, text: str | None) -> Formula | None:
        """By what a page is ordered; None: by the first goal, by the click probability, or as recall has it without a ranker.

        Raises `ConfigError` for a goal that the ranker lacks.
        """
        if text is None or not self.info.has_ranker:
            return None
        try:
            return Formula.parse(text, self.info.goals)
        except ValueError as error:
            raise ConfigError(
                f"selection.score: {error} in the bundle {self.version}; train and publish a ranker with these goals"
            ) from error

    def user(self, user_id: str) -> UserLog:
        """A user's part of the log; `UNKNOWN_USER` for users who are not in it."""
        return self.users.find(user_id)

    def top_users(self, count: int) -> list[str]:
        """The users with the longest lists of clicks in the bundle, the longest first."""
        return self.users.with_most_clicks(count)

    def facts_of(self, items: np.ndarray) -> list[dict[str, Any]]:
        """The catalog's row of each item, without vector and with `has_cover`."""
        return cast(list[dict[str, Any]], self._facts.take(pa.array(items - 1)).to_pylist())

    def cover(self, item: int) -> bytes | None:
        """The JPEG of an item's cover, None for an item without one. Raises `CoverError` if it can't be read."""
        if "cover_jpeg" in self.items.column_names:
            return cast(bytes | None, self.items["cover_jpeg"][item - 1].as_py())
        file, *place = (self.items[name][item - 1].as_py() for name in covers.PLACE)
        return covers.read(self.fs, f"{self.covers_folder}/{file}", *place) if file else None

    @cached_property
    def _facts(self) -> pa.Table:
        cover = "cover_jpeg" if "cover_jpeg" in self.items.column_names else "cover_file"
        return self.items.select(list(FACTS)).append_column("has_cover", self.items[cover].is_valid())

    def _column(self, name: str) -> pa.Array:
        """A column of the items as one array. The file has one batch, which is not copied, as `combine_chunks` would do."""
        return self.items[name].chunk(0)


def model_of(fs: pafs.FileSystem, folder: str) -> str:
    """The fingerprint of the files in `placing/`; "" without any."""
    files = {name: digest for name, digest in _checksums(fs, folder).items() if name.startswith(PLACING)}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16] if files else ""


def load_scorer(fs: pafs.FileSystem, folder: str) -> "Scorer":
    """Loads the ranker. Raises `BundleError` as `Bundle.load` does."""
    from rayrec.ranking.scorer import Scorer  # imports torch, which the ingress does not need

    verify(fs, folder, "ranker/")
    return Scorer.load(fs, f"{folder}/ranker")


def locate(workspace: Workspace, version: str | None) -> tuple[str, str]:
    """The version and the folder of a published bundle, of the current one when no version is given.

    Raises `WorkspaceError` when nothing has been published, and `BundleError` when this version has not.
    """
    current = workspace.folder("publish")
    if version is None:
        return current.rsplit("/", 1)[1], f"{current}/{FOLDER}"
    if version not in {manifest.version for manifest in workspace.versions("publish")}:
        raise BundleError(f"workspace {workspace.uri} holds no bundle {version!r}; run `rayrec publish CONFIG`")
    return version, f"{workspace.root}/publish/{version}/{FOLDER}"


def write(
    fs: pafs.FileSystem,
    folder: str,
    info: BundleInfo,
    items: pa.Table,
    topics: pa.Table,
    users: Iterable[pa.Table],
    scorer: "Scorer | None",
    others: Mapping[str, pa.Table] | None = None,
) -> None:
    """Writes a bundle of these tables and this ranker, if any, into a folder, which may hold `search` and `placing` already.

    The caller makes it visible. `users` are pieces of the table of users, which are taken one at a time (see `user_log.write`), and
    `others` are tables of `learned.TABLES` and `music.TABLES`.
    """
    if scorer is not None:
        scorer.save(fs, f"{folder}/ranker")
    with fs.open_output_stream(f"{folder}/bundle.json") as stream:
        stream.write(to_json(asdict(info)))
    for name, table in {"items": items, "topics": topics, **(others or {})}.items():
        schema = ALL_TABLES[name]
        table = table.select(schema.names).cast(schema).combine_chunks()
        make_folder_of(fs, f"{folder}/{name}")
        # One uncompressed batch, so that the file can be mapped into memory and its lists read in place.
        with fs.open_output_stream(f"{folder}/{name}.arrow") as stream, pa.ipc.new_file(stream, schema) as writer:
            writer.write_table(table)
    user_log.write(fs, f"{folder}/users.arrow", users)
    files = [item.path for item in fs.get_file_info(pafs.FileSelector(folder, recursive=True)) if item.is_file]
    checksums = {path.removeprefix(f"{folder}/"): _checksum(fs, path) for path in sorted(files)}
    with fs.open_output_stream(f"{folder}/checksums.json") as stream:
        stream.write(json.dumps(checksums, indent=1).encode())


def verify(fs: pafs.FileSystem, folder: str, prefix: str = "") -> BundleInfo:
    """Checks the files whose names begin with `prefix`, and the format; returns what bundle.json says.

    Raises `BundleError` at the first file whose checksum differs, and for a format that this version can't read.
    """
    _compare(fs, folder, {name: digest for name, digest in _checksums(fs, folder).items() if name.startswith(prefix)})
    return _read_info(fs, folder)


def _load_tables(
    fs: pafs.FileSystem, folder: str, info: BundleInfo, copies: Path | None
) -> tuple[dict[str, pa.Table], np.ndarray | None]:
    """The tables of `TABLES`, those of `ALL_TABLES` that the bundle has, and, if it has music, the vectors of search."""
    checksums, place = _checksums(fs, folder), folder
    names = [name for name in ALL_TABLES if name in TABLES or f"{name}.arrow" in checksums]
    digests = {f"{name}.arrow": checksums.get(f"{name}.arrow", "") for name in names}
    if music.SCALE in names and SEARCH_VECTORS in checksums:
        digests[SEARCH_VECTORS] = checksums[SEARCH_VECTORS]
    if copies is None or isinstance(fs, pafs.LocalFileSystem):
        _compare(fs, folder, digests)
    else:
        try:
            place = node_copies.copied(fs, folder, digests, copies)
        except node_copies.DamagedError as error:
            raise _damaged(str(error)) from error
        except OSError as error:
            raise BundleError(f"{folder} can't be copied to {copies} on this machine: {in_words(error)}") from error
        fs = pafs.LocalFileSystem()
    schemas = ALL_TABLES | {"items": ITEMS if info.format >= 5 else ITEMS_WITH_COVERS}
    found = {name: _read_table(fs, f"{place}/{name}.arrow", schemas[name]) for name in names}
    return found, _read_matrix(fs, f"{place}/{SEARCH_VECTORS}") if SEARCH_VECTORS in digests else None


def _compare(fs: pafs.FileSystem, folder: str, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        if _checksum(fs, f"{folder}/{name}") != digest:
            raise _damaged(f"{folder}/{name}")


def _damaged(path: str) -> BundleError:
    return BundleError(f"{path} is not the file that was published (its checksum differs); run `rayrec publish CONFIG` again")


def _read_info(fs: pafs.FileSystem, folder: str) -> BundleInfo:
    info = _read_json(fs, f"{folder}/bundle.json")
    if (found := info.get("format")) not in READABLE:  # before the fields are read: another format may have other ones
        raise BundleError(
            f"{folder}: the bundle has format {found}, but this version of rayrec reads {FORMAT}; run `rayrec publish CONFIG` again"
        )
    try:
        return BundleInfo(**info)
    except TypeError as error:
        raise BundleError(f"{folder}/bundle.json is broken ({error}); run `rayrec publish CONFIG` again") from error


def _checksum(fs: pafs.FileSystem, path: str) -> str:
    try:
        return checksum(fs, path)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: the bundle lacks this file; run `rayrec publish CONFIG` again") from error


def _read(fs: pafs.FileSystem, path: str) -> pa.Buffer:
    try:
        if isinstance(fs, pafs.LocalFileSystem):
            return pa.memory_map(path).read_buffer()
        with fs.open_input_stream(path) as stream:
            return pa.py_buffer(stream.read())
    except FileNotFoundError as error:
        raise BundleError(f"{path}: the bundle lacks this file; run `rayrec publish CONFIG` again") from error


def _checksums(fs: pafs.FileSystem, folder: str) -> dict[str, str]:
    return _read_json(fs, f"{folder}/checksums.json")


def _read_json(fs: pafs.FileSystem, path: str) -> dict[str, Any]:
    text = _read(fs, path).to_pybytes()
    try:
        found = from_json(text)
    except ValueError as error:
        raise BundleError(f"{path} is broken ({error}); run `rayrec publish CONFIG` again") from error
    if not isinstance(found, dict):
        raise BundleError(f"{path} is broken (it holds no object); run `rayrec publish CONFIG` again")
    return found


def _read_table(fs: pafs.FileSystem, path: str, schema: pa.Schema) -> pa.Table:
    table = pa.ipc.open_file(_read(fs, path)).read_all()
    if not table.schema.equals(schema):
        raise BundleError(f"{path}: its columns are not those that this version of rayrec reads; run `rayrec publish CONFIG` again")
    return table


def _read_matrix(fs: pafs.FileSystem, path: str) -> np.ndarray:
    """What NumPy saved, in place."""
    data = _read(fs, path)
    header = pa.BufferReader(data)
    np.lib.format.read_magic(header)
    shape, _, kind = np.lib.format.read_array_header_1_0(header)
    return np.frombuffer(data, kind, offset=header.tell()).reshape(shape)
