"""Where media files are, and which version of each is there."""

from collections.abc import Iterable
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec.errors import RayrecError
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stores import LITERAL, in_words, split_uri

NETWORK = "NETWORK_CONNECTION"  # Arrow's word for a store that does not answer
MIN_LISTED = 100  # of fewer files in a remote folder, each is asked for: the folder may hold millions of others


class MediaError(RayrecError):
    """Media can't be looked up at all; the message says where and why."""


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path inside it. A remote filesystem is opened once per host, not once per file."""
    scheme, remote, rest = uri.partition("://")
    if not remote or scheme == "file" or (scheme not in LITERAL and "?" in rest):
        return open_filesystem(uri)
    parts = split_uri(uri)
    filesystem, root = _filesystem(parts.root + parts.options)
    return filesystem, root + parts.path


@lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    return open_filesystem(root)


def file_versions(uris: Iterable[str]) -> dict[str, str]:
    """The size in bytes and the time of change (ns) of each file, as `size:time`; a file that is missing has no entry.

    Neither has one that a store refuses to show: the decoder says why, in `rejects`. Raises `MediaError` for a store that does not
    answer, because each file would be waited for.
    """
    groups: dict[int, tuple[pafs.FileSystem, list[str], list[str]]] = {}
    folders: dict[str, tuple[pafs.FileSystem, str]] = {}
    for uri in sorted(uris):
        try:
            filesystem, path = _located_in(folders, uri)
        except (OSError, ImportError, ValueError, pa.ArrowException):
            continue  # the decoder says why, in `rejects`
        _, known, paths = groups.setdefault(id(filesystem) if "://" in uri else 0, (filesystem, [], []))
        known.append(uri)
        paths.append(path)
    return {
        uri: found[path]
        for filesystem, known, paths in groups.values()
        for found in [_versions(filesystem, paths, known[0])]
        for uri, path in zip(known, paths, strict=True)
        if path in found
    }


def _located_in(folders: dict[str, tuple[pafs.FileSystem, str]], uri: str) -> tuple[pafs.FileSystem, str]:
    """What `locate` returns, but for links. A local folder is resolved once, as it costs more than to look for its files."""
    folder, slash, name = uri.rpartition("/")
    if "://" in uri or not slash or name in ("", ".", ".."):
        return locate(uri)
    if folder not in folders:
        folders[folder] = locate(folder or "/")
    filesystem, path = folders[folder]
    return filesystem, f"{path.rstrip('/')}/{name}"


def _versions(filesystem: pafs.FileSystem, paths: list[str], uri: str) -> dict[str, str]:
    """The version of each file that is there, by its path. Raises `MediaError` with the URI if the store does not answer."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0], set()).add(path)
    # In a store, times are taken in seconds: some stores tell fractions of them in a listing only.
    tick = 1 if isinstance(filesystem, pafs.LocalFileSystem) else 10**9
    return {
        item.path: f"{item.size}:{(item.mtime_ns or 0) // tick * tick}"
        for folder, wanted in folders.items()
        for item in _infos(filesystem, folder, sorted(wanted), uri)
        if item.is_file and item.path in wanted
    }


def _infos(filesystem: pafs.FileSystem, folder: str, paths: list[str], uri: str) -> list[pafs.FileInfo]:
    """What is known of these files of a folder. Where a store has many of them, one listing of the folder finds them all."""
    listed = len(paths) >= MIN_LISTED and not isinstance(filesystem, pafs.LocalFileSystem)
    try:
        return filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True) if listed else paths)
    except OSError as error:
        if NETWORK in str(error):
            raise MediaError(f"{uri}: the media can't be looked up: {in_words(error)}") from error
        if len(paths) == 1:
            return []
    return [item for path in paths for item in _infos(filesystem, folder, [path], uri)]
