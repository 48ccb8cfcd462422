"""Which files a caller may name: those in the folders and stores that the operator lists, and no others.

Addresses on the web are refused, so that the service can't be made to call other hosts. So are the options of a store's URI, which
name its endpoint, unless the list has the same ones.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs as pafs

from rayrec.config import Config, FilesData
from rayrec.datasets.screening import resolved_uri
from rayrec.errors import RayrecError
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stores import split_uri

OUTSIDE = "is in none of the folders that serving.uploads.media_roots lists"


class NotPermittedError(RayrecError):
    """A file may not be read for a caller; the message says why."""


def roots_of(config: Config) -> list[str]:
    """The folders and URIs from which callers may name files."""
    uploads, dataset = config.serving.uploads, config.dataset
    listed = list(uploads.media_roots) if uploads else []
    return listed + ([dataset.media_root] if isinstance(dataset, FilesData) and dataset.media_root else [])


def missing_folders(config: Config) -> list[str]:
    """A sentence for each folder that is watched, or from which callers may name files, and that is not there."""
    uploads = config.serving.uploads
    if uploads is None:
        return []
    given = [("serving.uploads.watch_folder", uploads.watch_folder)] if uploads.watch_folder else []
    given += [("serving.uploads.media_roots", root) for root in uploads.media_roots]
    if isinstance(config.dataset, FilesData) and config.dataset.media_root:
        given.append(("dataset.media_root", config.dataset.media_root))
    return [
        f"{key}: there is no folder {folder}; no video can come from it until there is"
        for key, folder in given
        if not _is_there(folder)
    ]


def _is_there(folder: str) -> bool:
    try:
        fs, path = open_filesystem(folder)
        return fs.get_file_info(path).type == pafs.FileType.Directory
    except (OSError, ValueError, ImportError):  # Arrow's errors are among them
        return False


def permitted(uri: str, roots: Sequence[str], name: str = "uri") -> str:
    """The file that a caller names, as an absolute path or a URI. Links are followed first.

    Raises `NotPermittedError`, whose message begins with the name of the field.
    """
    if not roots:
        raise NotPermittedError(f"{name}: {uri[:80]!r} {OUTSIDE}: it lists none, so send the file itself")
    if any(ord(letter) < 32 for letter in uri):
        raise NotPermittedError(f"{name}: {uri[:80]!r} holds a control character")
    if "://" not in uri and not uri.startswith("/"):
        try:
            uri = resolved_uri(uri, roots[0] if "://" in roots[0] else str(Path(roots[0]).resolve()), confined=True)
        except ValueError as error:
            raise NotPermittedError(f"{name}: {uri[:80]!r} {error}") from error
    for root in roots:
        if "://" not in uri and "://" not in root:
            path, folder = _real(uri), _real(root)
            if path is not None and folder is not None and path != folder and path.is_relative_to(folder):
                return str(path)
        elif "://" in uri and "://" in root and _is_below(uri, root):
            return uri if split_uri(uri).options else uri + split_uri(root).options
    raise NotPermittedError(f"{name}: {uri[:80]!r} {OUTSIDE}")


def _real(path: str) -> Path | None:
    """The path without links; None where they lead nowhere, as in a circle."""
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError):
        return None


def _is_below(uri: str, root: str) -> bool:
    """Whether a URI names something below another one, also if the store decodes %2e%2e or takes it literally."""
    mine, theirs = split_uri(uri), split_uri(root)
    if mine.root != theirs.root or mine.options not in ("", theirs.options) or "?" in mine.path or "#" in mine.path:
        return False
    folder = theirs.path.rstrip("/") + "/"
    return all(
        path.startswith(folder) and len(path) > len(folder) and not {"..", "."} & set(path.split("/"))
        for path in (mine.path, unquote(mine.path), unquote(unquote(mine.path)))
    )
