"""Copies on this machine of files in an object store: all processes on a node map the same copies into memory.

    <copies>/<versions of a stage>/<version>/items.arrow ...

A file appears when it is whole. Only the last few versions that a process has begun with are kept. Linux lets a process read a file
that it has mapped even after the file has been deleted.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from rayrec.workspace.files import checksum, written_whole
from rayrec.workspace.locks import held

KEPT = 3  # versions of a stage; of bundles: the one in use, the one before and a canary
LOCAL = pafs.LocalFileSystem()


class DamagedError(Exception):
    """A file in the store is not the one that was written there; the message is its path."""


def copied(fs: pafs.FileSystem, folder: str, digests: dict[str, str], copies: Path) -> str:
    """The path of a folder below `copies` that has these files of `folder`. `digests` are their SHA-256, by name.

    Processes that begin at the same time wait for each other, and a copy that is damaged is made again. Raises `DamagedError` for a
    file that differs in the store, and `OSError` for one that can't be copied.
    """
    home = copies / _digest(folder.rsplit("/", 2)[0])
    place = home / _digest(folder)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)  # the log of users is nobody else's business
    place.mkdir(exist_ok=True)
    with held(LOCAL, f"{home}/lock"):
        for name, digest in digests.items():
            if not (place / name).is_file() or checksum(LOCAL, f"{place}/{name}") != digest:
                _copy(fs, f"{folder}/{name}", f"{place}/{name}", digest)
        os.utime(place)
        versions = sorted((each for each in home.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime_ns)
        for old in versions[:-KEPT]:
            shutil.rmtree(old)
    return str(place)


def copies_folder() -> Path:
    """The folder for copies that belong to no service, in the machine's folder for temporary files.

    Raises `OSError` if it is another user's.
    """
    folder = Path(tempfile.gettempdir()) / f"rayrec-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "it belongs to another user", str(folder))
    return folder


def _copy(fs: pafs.FileSystem, path: str, place: str, digest: str) -> None:
    found = hashlib.sha256()
    with written_whole(LOCAL, place) as new, fs.open_input_stream(path) as source, Path(new).open("wb") as target:
        while piece := source.read(2**22):
            found.update(piece)
            target.write(piece)
    if found.hexdigest() != digest:
        Path(place).unlink()
        raise DamagedError(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
