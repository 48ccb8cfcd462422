"""Keeps the logs of the service and of its Ray head within bounds of size and age. Nothing here imports Ray.

Ray itself rotates the log of each process (`SETTINGS`). But each process has files of its own, and a head that was killed leaves
its folder behind. Both are removed here when they are old.
"""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

import psutil

from rayrec.serving.cluster import processes

# Ray's environment variables: the size of a log file, and how many older ones are kept beside it.
SETTINGS = {"RAY_ROTATION_MAX_BYTES": str(64 * 2**20), "RAY_ROTATION_BACKUP_COUNT": "4"}
MAX_AGE_S = 14 * 86_400
MAX_BYTES = 2 * 2**30  # of the logs of processes that have ended
HEAD_FOLDER = "rayrec-"  # the beginning of the name of a head's folder
MAX_HEAD_AGE_S = 86_400  # since the last change in the folder of a head that has ended
PROCESS = re.compile(r"[-_](\d+)\.(?:err|out|log)(?:\.\d+)?$")  # the id at the end of a file's name


def remove_old(folder: Path) -> int:
    """Removes the logs of ended processes that have not changed for `MAX_AGE_S`, and the oldest beyond `MAX_BYTES`.

    Returns the number of files.
    """
    ended = []
    for path in folder.rglob("*"):
        found = PROCESS.search(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                ended.append((facts.st_mtime, facts.st_size, path))
    size, removed = 0, 0
    for changed_at, bytes_, path in sorted(ended, reverse=True):
        size += bytes_
        if size > MAX_BYTES or changed_at < time.time() - MAX_AGE_S:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def remove_ended_heads(place: Path) -> None:
    """Removes the folders of our heads in `place` that have ended and have not changed for `MAX_HEAD_AGE_S`."""
    for folder in place.glob(f"{HEAD_FOLDER}*"):
        with contextlib.suppress(OSError):  # another user's, or it has just gone
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            newest = max(path.lstat().st_mtime for path in [folder, *folder.rglob("*")])
            if newest < time.time() - MAX_HEAD_AGE_S and not processes.belonging_to(-1, str(folder)):
                shutil.rmtree(folder, ignore_errors=True)
