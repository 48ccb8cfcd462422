"""The one place where file systems are opened, and files are read, written and checked whole."""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec.errors import RayrecError
from rayrec.workspace.stores import LITERAL, WHOLE, in_words, open_store, split_uri

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # by the end of a file's name


class WorkspaceError(RayrecError):
    """The workspace can't be used, or something that a stage needs is not there; the message says what to do."""


@contextlib.contextmanager
def writing(place: str, option: str) -> Iterator[None]:
    """For code that only writes to a place, which `option` names: a place that can't be written becomes a `WorkspaceError`."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{place} can't be written ({in_words(error)}); set `{option}` to a folder or URI where you may write"
        ) from error


def open_filesystem(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path inside it, for a local path or any URI that pyarrow or fsspec knows.

    Raises `ValueError` for a path that can't be resolved or a URI whose protocol neither knows, `ImportError` if the package for a
    protocol is not installed.
    """
    text = str(uri)
    if "://" not in text:
        try:
            return pafs.LocalFileSystem(), str(Path(text).expanduser().resolve())
        except RuntimeError as error:  # a loop of links, or the ~ of somebody whom the machine does not know
            raise ValueError(str(error)) from error
    parts = split_uri(text)
    if text.partition("://")[0] in LITERAL:
        filesystem, bucket = open_store(parts.root, parts.options)
        return filesystem, bucket + parts.path.rstrip("/")
    try:
        return pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec  # takes 0.1 s, which local paths need not wait

        filesystem, path = fsspec.core.url_to_fs(text)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def is_special(fs: pafs.FileSystem, path: str) -> bool:
    """Whether a path leads to a pipe, a socket or a device: reading it may wait for ever, or never end."""
    return isinstance(fs, pafs.LocalFileSystem) and fs.get_file_info(path).type == pafs.FileType.Unknown


def open_input(uri: str, error: type[RayrecError]) -> pa.NativeFile:
    """A file for reading. Raises `error`, which names it, for a file that is not there or can't be read."""
    try:
        filesystem, inside = open_filesystem(uri)
        if is_special(filesystem, inside):
            raise error(f"{uri} is no regular file but a pipe, a socket or a device; name a file")
        return filesystem.open_input_file(inside)
    except FileNotFoundError as problem:
        raise error(f"{uri}: there is no such file") from problem
    except (OSError, ValueError, ImportError) as problem:
        raise error(f"{uri}: the file can't be read: {in_words(problem)}") from problem


def endings(uri: str) -> tuple[str, str]:
    """How the name of a file ends, and with which mark of compression: `log.csv.gz` with `.csv` and `.gz`, `log.csv` with none."""
    name = PurePosixPath((split_uri(uri).path if "://" in uri else uri).lower())
    if name.suffix not in COMPRESSIONS:
        return name.suffix, ""
    return PurePosixPath(name.stem).suffix, name.suffix


def open_stream(uri: str, error: type[RayrecError]) -> pa.NativeFile:
    """A file to be read from its beginning to its end. It is unpacked if its name ends with .gz, .zst or .bz2.

    Raises `error` like `open_input`; reading a file that is not compressed as its name says raises `OSError`.
    """
    file, (_, packed) = open_input(uri, error), endings(uri)
    return pa.CompressedInputStream(file, COMPRESSIONS[packed]) if packed else file


def read_whole(fs: pafs.FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as file:
        return file.read()


def make_folder_of(fs: pafs.FileSystem, path: str) -> None:
    """Makes the folder that a file is to be written into. Object stores need none."""
    if fs.type_name not in WHOLE:
        fs.create_dir(path.rsplit("/", 1)[0], recursive=True)


@contextlib.contextmanager
def written_whole(fs: pafs.FileSystem, path: str, temporary: str = ".new") -> Iterator[str]:
    """The path under which the block is to write a file, of which readers see all or nothing.

    Object stores show a file when it is complete. Elsewhere its name has the ending `temporary` until it is moved to its place.
    """
    if fs.type_name in WHOLE:
        yield path
        return
    make_folder_of(fs, path)
    try:
        yield path + temporary
        fs.move(path + temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk, half a file must not take the room of others
            fs.delete_file(path + temporary)
        raise


def write_whole(fs: pafs.FileSystem, path: str, data: bytes, temporary: str = ".new") -> None:
    """Write a file of which readers see all or nothing."""
    with written_whole(fs, path, temporary) as place, fs.open_output_stream(place) as stream:
        stream.write(data)


def checksum(fs: pafs.FileSystem, path: str) -> str:
    """The SHA-256 of a file. Raises `FileNotFoundError` if there is none."""
    if isinstance(fs, pafs.LocalFileSystem) and Path(path).stat().st_size:
        return hashlib.sha256(pa.memory_map(path).read_buffer()).hexdigest()
    found = hashlib.sha256()
    with fs.open_input_stream(path) as stream:
        while piece := stream.read(2**20):
            found.update(piece)
    return found.hexdigest()


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON of plain values. JSON has no NaN and no infinity, and a browser refuses a text with one: such a number becomes null."""
    return json.dumps(_with_nulls(value), indent=indent, ensure_ascii=False, allow_nan=False).encode()


def from_json(data: bytes) -> Any:
    """The values of a JSON text. The NaN that older versions wrote is read as null."""
    return json.loads(data, parse_constant=lambda name: None)


def with_nan(value: Any) -> Any:
    """The values of a JSON text with NaN for null, where they are numbers that one calculates with."""
    return math.nan if value is None else _mapped(with_nan, value)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _mapped(_with_nulls, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A value whose parts the function has changed."""
    if isinstance(value, dict):
        return {key: function(each) for key, each in value.items()}
    return [function(each) for each in value] if isinstance(value, list | tuple) else value


def file_facts(fs: pafs.FileSystem, paths: list[str]) -> list[tuple[str, int, int]]:
    """(path, bytes, time of change in ns) of each file; (path, -1, -1) for one that is missing."""
    found = fs.get_file_info(paths)
    return [(item.path, item.size, item.mtime_ns) if item.is_file else (item.path, -1, -1) for item in found]
