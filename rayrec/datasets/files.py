"""Reads any catalog and log in Parquet or CSV, and maps the user's columns to ours. A folder of videos is a catalog too.

A log may consist of several files: a folder, or a list of files and folders. Files that `rayrec events export` wrote are marked in
their metadata; they are read in our names and units, whatever the config says about the other files.

Our columns are found under our names, or under the names in the `..._columns` mappings of the config. Optional columns may be
missing. Columns that we don't know become side columns, which rankers may use as fields.
"""

from difflib import get_close_matches
from pathlib import Path

import pyarrow.fs as pafs

from rayrec import tables
from rayrec.config import FilesData
from rayrec.datasets.conversion import Conventions, convert_rows
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.reading import list_tables, list_videos, read_rows
from rayrec.datasets.screening import SourceTable
from rayrec.errors import did_you_mean
from rayrec.tables import TableError
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stage import StageRun

EXPORTED = {b"rayrec": b"interactions"}  # the metadata of a file that has our names and units


def read(settings: FilesData, run: StageRun) -> RawDataset:
    """The tables that the config names. Raises `TableError` when a file can't be read or lacks a column."""
    return RawDataset(
        read_table("catalog", settings),
        read_table("interactions", settings),
        read_table("users", settings) if settings.users else None,
        media_root=settings.media_root or _folder_of(settings.catalog),
        confined=settings.media_root is not None,
    )


def files(settings: FilesData) -> list[str]:
    """Every file and folder that the config names."""
    given = [each for each in (settings.catalog, settings.interactions, settings.users) if each]
    return [path for each in given for path in ([each] if isinstance(each, str) else each)]


def read_table(name: str, settings: FilesData) -> SourceTable:
    """The `catalog`, `interactions` or `users` that the config names; a table without rows if it names none.

    Raises `TableError` when a file can't be read or lacks a column, or when a mapping names a column that is missing.
    """
    given = getattr(settings, name)
    if given is None:
        return SourceTable.of(f"no {name}", tables.empty(name))
    if name == "catalog" and (listed := list_videos(given)):
        return listed
    paths = [path for each in ([given] if isinstance(given, str) else given) for path in list_tables(each)]
    return SourceTable.concatenated([_read_file(name, path, settings) for path in paths])


def _read_file(name: str, path: str, settings: FilesData) -> SourceTable:
    raw = read_rows(path)
    if EXPORTED.items() <= (raw.table.schema.metadata or {}).items():
        return convert_rows(name, raw, _columns(name, raw, {}), Conventions())
    columns = _columns(name, raw, getattr(settings, f"{name}_columns"))
    return convert_rows(name, raw, columns, Conventions(settings.list_separator, settings.time_unit, settings.click_at_least))


def _columns(name: str, raw: SourceTable, mapping: dict[str, str]) -> dict[str, str]:
    """Our column -> the file's column, for the columns that the file has."""
    spec, present, option = tables.spec_of(name), raw.table.column_names, f"dataset.{name}_columns"
    for ours, theirs in mapping.items():
        # A name that is near one of our columns is taken for a misspelling, any other for that of a side column.
        typo = get_close_matches(ours, spec.schema.names, n=1, cutoff=0.8)
        if ours not in spec.schema.names and (typo or not spec.extra_columns):
            raise TableError(f"{option}: table {name} has no column {ours!r}{did_you_mean(ours, spec.schema.names)}")
        if theirs not in present:
            near = did_you_mean(theirs, present)
            raise TableError(f"{raw.source}: {option} maps {ours!r} to the column {theirs!r}, which is missing{near}")
    found = {field.name: mapping.get(field.name, field.name) for field in spec.schema}
    for field in spec.schema:
        if found[field.name] not in present and not field.nullable:
            near = did_you_mean(field.name, present)
            raise TableError(
                f"{raw.source}: there is no column {field.name!r}{near}; name yours with `{option}: {{{field.name}: ...}}`"
            )
    columns = {ours: theirs for ours, theirs in found.items() if theirs in present}
    if spec.extra_columns:
        renamed = {theirs: ours for ours, theirs in mapping.items()}
        columns = {renamed.get(theirs, theirs): theirs for theirs in present if theirs not in columns.values()} | columns
    return columns


def _folder_of(path: str) -> str:
    """The folder of videos that is itself the catalog, or else the folder that holds the catalog's file; a local path or a URI."""
    filesystem, inside = open_filesystem(path)
    if filesystem.get_file_info(inside).type == pafs.FileType.Directory:
        return path
    if "://" not in path:
        return str(Path(path).expanduser().resolve().parent)
    base, mark, query = path.partition("?")
    return base.rsplit("/", 1)[0] + mark + query


DATASET = Dataset(read, files)
