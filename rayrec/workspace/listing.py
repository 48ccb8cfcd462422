"""Lists the files of a folder, however strange their names and links are."""

import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow.fs as pafs

from rayrec.workspace.files import open_filesystem

log = logging.getLogger(__name__)


class Listing(NamedTuple):
    """The files in a folder and its subfolders, by their paths relative to it, sorted."""

    names: list[str]
    unreadable: list[str]  # the names that are not UTF-8, in which nothing can be stored; the wrong bytes are written as \\xe9


def list_folder(uri: str) -> Listing | None:
    """The files of a folder; None if there is no such folder.

    Links are followed, but a folder is entered once, however many links lead to it. A subfolder that can't be read is logged.
    """
    filesystem, root = open_filesystem(uri)
    if filesystem.get_file_info(root).type != pafs.FileType.Directory:
        return None
    if isinstance(filesystem, pafs.LocalFileSystem):
        found = list(_walk(root))
    else:
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
        found = [info.path[len(root) :].lstrip("/") for info in infos if info.is_file]
    strange = {name for name in found if not _is_utf8(name)}
    unreadable = [os.fsencode(name).decode(errors="backslashreplace") for name in strange]
    return Listing(sorted(set(found) - strange), sorted(unreadable))


def list_subfolders(uri: str) -> list[str]:
    """The names of the folders in a folder, also of those without files, sorted. Names that are not UTF-8 are left out."""
    filesystem, root = open_filesystem(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _is_utf8(entry.name))
    inside = filesystem.get_file_info(pafs.FileSelector(root))
    return sorted(info.base_name for info in inside if info.type == pafs.FileType.Directory)


def _walk(root: str) -> Iterator[str]:
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=lambda error: log.warning("left out: %s", error)):
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in entered:
            folders.clear()
            continue
        entered.add((facts.st_dev, facts.st_ino))
        folders.sort()
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, root)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
