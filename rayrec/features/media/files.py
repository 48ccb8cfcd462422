"""Where media files are, and which version of each is there."""

from collections.abc import Iterable
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from rayrec.workspace.files import file_facts, open_filesystem


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path inside it. A remote filesystem is opened once per host, not once per file."""
    scheme, remote, rest = uri.partition("://")
    if not remote or scheme == "file" or "?" in rest:
        return open_filesystem(uri)
    host = rest.partition("/")[0]
    filesystem, root = _filesystem(f"{scheme}://{host}")
    return filesystem, root + rest[len(host) :]


@lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    return open_filesystem(root)


def file_versions(uris: Iterable[str]) -> dict[str, str]:
    """The size in bytes and the time of change (ns) of each file, as `size:time`; a file that is missing has no entry."""
    groups: dict[int, tuple[pafs.FileSystem, list[str], list[str]]] = {}
    for uri in sorted(uris):
        try:
            filesystem, path = locate(uri)
        except (OSError, ImportError, ValueError, pa.ArrowException):
            continue  # the decoder says why, in `rejects`
        _, known, paths = groups.setdefault(id(filesystem) if "://" in uri else 0, (filesystem, [], []))
        known.append(uri)
        paths.append(path)
    return {
        uri: f"{size}:{changed}"
        for filesystem, known, paths in groups.values()
        for uri, (_, size, changed) in zip(known, file_facts(filesystem, paths), strict=True)
        if size >= 0
    }
