"""Reads any catalog and log in Parquet, CSV or JSON lines, and maps the user's columns to ours.

A folder of videos is a catalog too.

A log may consist of several files: a folder, or a list of files and folders. Files that `rayrec events export` wrote are marked in
their metadata; they are read in our names and units, whatever the config says about the other files. What `rayrec videos export`
and `rayrec users export` write is marked likewise.

Our columns are found under our names, or under the names in the `..._columns` mappings of the config. Optional columns may be
missing. Columns that we don't know become side columns, which rankers may use as fields.
"""

import heapq
import json
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import FilesData, MusicFiles
from rayrec.datasets.conversion import Conventions, convert_rows
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.guessing import NAMES
from rayrec.datasets.log_rows import LogRules, convert_log
from rayrec.datasets.reading import Share, list_tables, list_videos, raw_blocks, shares_of
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Limits, Piece, Source
from rayrec.errors import did_you_mean
from rayrec.tables import TableError
from rayrec.values import text_of
from rayrec.workspace.files import endings, open_filesystem, open_input
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import split_uri

MAY_LACK = ("shown_at", "clicked")  # of a file of the user's; the table has them
PIECE_ROWS = 2**18  # of small files, which are read one after the other
EXPORTED = {b"rayrec": b"interactions"}  # the metadata of a log that has our names and units
MAX_CONTEXT = 50  # columns that the context of a block of rows becomes, those of the fields that most requests have
CONTEXT = "context"  # the column of such a log that has the context of each request
AMONG = "among"  # likewise the videos between which one was drawn, which `rayrec off_policy` alone needs
EXPORTED_CATALOG = {b"rayrec": b"catalog"}  # likewise of a catalog
EXPORTED_USERS = {b"rayrec": b"users"}  # and of what was said of users, which counts instead of what other files say of them
MARKS = {"catalog": EXPORTED_CATALOG, "interactions": EXPORTED, "users": EXPORTED_USERS}


@dataclass(frozen=True)
class FilesPiece:
    """Shares of files that hold a table under the user's names."""

    name: str
    settings: FilesData | MusicFiles
    shares: tuple[Share, ...]
    exports: tuple[str, ...] = ()  # of users: the files whose rows count instead of those of all others

    @property
    def files(self) -> list[str]:
        return [share.path for share in self.shares]

    def without(self, files: Container[str]) -> "FilesPiece | None":
        shares = tuple(share for share in self.shares if share.path not in files)
        return replace(self, shares=shares) if shares else None

    def blocks(self, limits: Limits, careful: bool = False) -> Iterator[SourceTable]:
        exported = _users_in(self.exports)
        for share in self.shares:
            for raw in raw_blocks(share, limits, careful):
                yield self._converted(raw, exported)

    def _converted(self, raw: SourceTable, exported: pa.Array) -> SourceTable:
        name, settings = self.name, self.settings
        if _is_marked(raw.table.schema, name):
            raw = _with_context(raw)
            return convert_rows(name, raw, _columns(name, raw, {}, ""), Conventions())
        option = f"{'dataset' if isinstance(settings, FilesData) else 'music.data'}.{name}_columns"
        columns = _columns(name, raw, getattr(settings, f"{name}_columns"), option)
        conventions = Conventions(settings.list_separator, settings.time_unit)
        if name == "users":
            return _without(exported, convert_rows(name, raw, columns, conventions))
        if name != "interactions" or not isinstance(settings, FilesData):
            return convert_rows(name, raw, columns, conventions)
        conventions = replace(conventions, click_at_least=settings.click_at_least)
        for ours, replaced in (("shown_at", settings.split_column), ("clicked", settings.click_rule or "rating" in columns)):
            if ours not in columns and not replaced:
                _refuse_other_name(raw, ours, settings.interactions_columns)
        return convert_log(raw, columns, LogRules(conventions, settings.click_rule, settings.split_column))


def read(settings: FilesData, run: StageRun) -> RawDataset:
    """The tables that the config names. Raises `TableError` when a file can't be read."""
    return RawDataset(
        source_of("catalog", settings),
        source_of("interactions", settings),
        source_of("users", settings) if settings.users else None,
        media_root=settings.media_root or folder_of(paths_in(settings.catalog)[0]),
        confined=settings.media_root is not None,
        click_rule=settings.click_rule,
    )


def files(settings: FilesData) -> list[str]:
    """Every file and folder that the config names."""
    return [path for each in (settings.catalog, settings.interactions, settings.users) if each for path in paths_in(each)]


def source_of(name: str, settings: FilesData | MusicFiles) -> Source:
    """The table of this name, such as `catalog`, that the config names; a table without rows if it names none.

    To read it raises `TableError` when a file can't be read or lacks a column, or when a mapping names a column that is missing.
    """
    given = getattr(settings, name)
    if not given:
        return Source.of(SourceTable.of(f"no {name}", tables.empty(name)))
    named, videos = paths_in(given), None
    if name == "catalog" and (folder := list_videos(named[0])):
        videos, named = Source.of(folder), named[1:]
        if not named:
            return videos
    paths = [path for each in named for path in list_tables(each)]
    shares = shares_of(paths)
    exports = tuple(path for path in paths if name == "users" and _is_export(path))
    pieces: list[Piece] = [FilesPiece(name, settings, tuple(few), exports) for few in _in_pieces(shares)]
    rows = sum(share.rows for share in shares)
    if videos is None:
        return Source(", ".join(paths), pieces, rows)
    return Source(", ".join([videos.name, *paths]), [*videos.pieces, *pieces], videos.rows + rows)


def _is_marked(schema: pa.Schema, name: str) -> bool:
    return name in MARKS and MARKS[name].items() <= (schema.metadata or {}).items()


def _with_context(raw: SourceTable) -> SourceTable:
    """An exported log with a column for each field of the context, which its rows have as JSON. No field replaces a column.

    It is without the column `AMONG`.
    """
    if CONTEXT not in raw.table.column_names:
        return raw
    encoded = raw.table[CONTEXT].cast(tables.TEXT).combine_chunks().dictionary_encode()
    said = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    table = raw.table.drop_columns([name for name in (CONTEXT, AMONG) if name in raw.table.column_names])
    taken = {*raw.table.column_names, *tables.spec_of("interactions").schema.names}
    counts = Counter[str]()
    for each in pc.value_counts(encoded.indices.drop_null()).to_pylist():
        counts.update({name: each["counts"] for name in said[each["values"]] if name not in taken})
    for name in sorted(heapq.nlargest(MAX_CONTEXT, counts, key=lambda name: (counts[name], name))):  # any caller may name fields
        values = pa.array([text_of(fields.get(name)) for fields in said], tables.TEXT)
        table = table.append_column(name, values.take(encoded.indices))
    return replace(raw, table=table)


def _is_export(path: str) -> bool:
    """Whether a file is what `rayrec users export` writes."""
    if endings(path) != (".parquet", ""):
        return False
    with open_input(path, TableError) as stream:
        return _is_marked(pq.read_schema(stream), "users")


def _users_in(exports: tuple[str, ...]) -> pa.Array:
    """The users in these files."""
    found = []
    for path in exports:
        with open_input(path, TableError) as stream:
            found.append(pq.read_table(stream, columns=["user_id"])["user_id"].cast(tables.TEXT).combine_chunks())
    return pa.chunked_array(found, tables.TEXT).combine_chunks()


def _without(users: pa.Array, block: SourceTable) -> SourceTable:
    """The block without the rows of these users."""
    if not len(users):
        return block
    others = pc.invert(pc.is_in(block.table["user_id"], value_set=users))
    return replace(block, table=block.table.filter(others), rows=block.rows[others.to_numpy()])


def paths_in(given: str | list[str]) -> list[str]:
    """The paths of a key that takes one or several."""
    return [given] if isinstance(given, str) else given


def _in_pieces(shares: list[Share]) -> Iterator[list[Share]]:
    """The shares, small files together."""
    held: list[Share] = []
    for share in shares:
        if held and sum(each.rows for each in held) + share.rows > PIECE_ROWS:
            yield held
            held = []
        held.append(share)
    if held:
        yield held


def _columns(name: str, raw: SourceTable, mapping: dict[str, str], option: str) -> dict[str, str]:
    """Our column -> the file's column, for the columns that the file has. `option` is the key of `mapping` in the config."""
    spec, present = tables.spec_of(name), raw.table.column_names
    for ours, theirs in mapping.items():
        # A name that is near one of our columns is taken for a misspelling; any other, or the file's own, for a side column's.
        typo = ours != theirs and get_close_matches(ours, spec.schema.names, n=1, cutoff=0.8)
        if ours not in spec.schema.names and (typo or not spec.extra_columns):
            raise TableError(f"{option}: table {name} has no column {ours!r}{did_you_mean(ours, spec.schema.names)}")
        if theirs not in present:
            near = did_you_mean(theirs, present)
            raise TableError(f"{raw.source}: {option} maps {ours!r} to the column {theirs!r}, which is missing{near}")
    found = {field.name: mapping.get(field.name, field.name) for field in spec.schema}
    for field in spec.schema:
        if found[field.name] not in present and not field.nullable and field.name not in MAY_LACK:
            near = did_you_mean(field.name, present)
            raise TableError(
                f"{raw.source}: there is no column {field.name!r}{near}; name yours with `{option}: {{{field.name}: ...}}`"
            )
    columns = {ours: theirs for ours, theirs in found.items() if theirs in present}
    for theirs in present:
        ours = theirs.strip().lower()
        if ours in spec.schema.names and ours not in columns and theirs not in columns.values():
            raw.remarks.append(
                f"{raw.source}: the column {theirs!r} is not read as {ours!r}; rename it, or set `{option}: {{{ours}: ...}}`"
            )
    if spec.extra_columns:
        renamed = {theirs: ours for ours, theirs in mapping.items()}
        columns = {renamed.get(theirs, theirs): theirs for theirs in present if theirs not in columns.values()} | columns
    return columns


def _refuse_other_name(raw: SourceTable, ours: str, mapping: dict[str, str]) -> None:
    """Raise `TableError` if a column of ours that a log may lack is probably there under another name."""
    known = (*tables.spec_of("interactions").schema.names, *mapping.values())
    others = [theirs for theirs in raw.table.column_names if theirs not in known]
    found = [theirs for theirs in others if re.sub("[^a-z0-9]", "", theirs.lower()) in NAMES[ours]]
    found += get_close_matches(ours, others, n=1, cutoff=0.8)
    if found:
        raise TableError(
            f"{raw.source}: there is no column {ours!r}; if it is {found[0]!r}, say so with `dataset.interactions_columns: "
            f"{{{ours}: {found[0]}}}`; if that is a column of your own, with `{{{found[0]}: {found[0]}}}`"
        )


def folder_of(path: str) -> str:
    """The folder itself (of videos that are the catalog), or else the one that holds this file; a local path or a URI."""
    filesystem, inside = open_filesystem(path)
    if filesystem.get_file_info(inside).type == pafs.FileType.Directory:
        return path
    if "://" not in path:
        return str(Path(path).expanduser().resolve().parent)
    parts = split_uri(path)
    return parts.root + parts.path.rsplit("/", 1)[0] + parts.options


DATASET = Dataset(read, files)
