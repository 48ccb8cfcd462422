"""A folder whose new videos are added: which files are there, complete, and not dealt with yet.

A file is complete when its size and time of change have stayed the same from one look to the next; a file that is moved into the
folder is complete at once, and is taken at the second look. What is known of a video beside its file stands in a JSON file of the
same name: `clip.json` beside `clip.mp4`, which must be there before the video is complete.

A file that can't be used is noted in `REJECTS` of the workspace, one line for each, and is not tried again until it or its JSON
file changes.
"""

import json
import logging
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from rayrec.datasets.reading import VIDEO_ENDINGS, ids_of_files, is_hidden
from rayrec.features.media.files import file_versions
from rayrec.serving.recommender import now_ms
from rayrec.workspace.files import open_filesystem, read_whole
from rayrec.workspace.listing import list_folder
from rayrec.workspace.stores import join_uri
from rayrec.workspace.versions import Workspace

REJECTS = "serving/watch-rejects.jsonl"
MAX_SIDECAR = 2**20  # bytes

log = logging.getLogger(__name__)


class WatchedFile(NamedTuple):
    """A complete video file of the folder."""

    name: str  # its path in the folder
    uri: str
    version: str  # size and time of change, its own and those of the JSON file beside it
    video_id: str


class WatchedFolder:
    """Looks through a folder. It is not safe to be used by several threads at a time."""

    def __init__(self, folder: str, workspace: Workspace) -> None:
        self.folder, self.workspace = folder, workspace
        self._before: dict[str, str] = {}  # the version of each file at the last look
        self._done = {row["file"]: row["version"] for row in self.rejects()}

    def look(self) -> list[WatchedFile]:
        """The files that are complete and not dealt with, sorted by name. Raises `MediaError` for a store that does not answer."""
        listing = list_folder(self.folder)
        names = [name for name in listing.names if _is_video(name)] if listing else []
        uris = {name: join_uri(self.folder, name) for name in names}
        beside = {name: join_uri(self.folder, str(PurePosixPath(name).with_suffix(".json"))) for name in names}
        versions = file_versions([*uris.values(), *beside.values()])
        now = {
            name: " ".join(versions[each] for each in (uri, beside[name]) if each in versions)
            for name, uri in uris.items()
            if uri in versions
        }
        before, self._before = self._before, now
        ids = dict(zip(names, ids_of_files(names).to_pylist(), strict=True))
        return [
            WatchedFile(name, uris[name], version, ids[name])
            for name, version in now.items()
            if before.get(name) == version and self._done.get(name) != version
        ]

    def sidecar(self, file: WatchedFile) -> dict[str, Any]:
        """What the JSON file beside a video says; {} without one. Raises `ValueError` for one that can't be read."""
        fs, path = open_filesystem(join_uri(self.folder, str(PurePosixPath(file.name).with_suffix(".json"))))
        info = fs.get_file_info(path)
        if not info.is_file:
            return {}
        name = PurePosixPath(path).name
        if info.size > MAX_SIDECAR:
            raise ValueError(f"{name} has {info.size:,} bytes; at most {MAX_SIDECAR:,} are read")
        try:
            found = json.loads(read_whole(fs, path))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not valid JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{name} holds no JSON object")
        return found

    def done(self, file: WatchedFile) -> None:
        """A file is dealt with, until it changes."""
        self._done[file.name] = file.version

    def reject(self, file: WatchedFile, reason: str) -> None:
        """Note why a file can't be used, in the log and in `REJECTS`."""
        log.warning("%s/%s is rejected: %s", self.folder, file.name, reason)
        row = {"file": file.name, "version": file.version, "video_id": file.video_id, "reason": reason, "at": now_ms()}
        rows = [each for each in self.rejects() if each["file"] != file.name]
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in [*rows, row])
        self.workspace.write_file(REJECTS, text.encode())
        self.done(file)

    def rejects(self) -> list[dict[str, Any]]:
        """The files that could not be used: file, version, video_id, reason and at (UTC ms)."""
        try:
            text = self.workspace.read_file(f"{self.workspace.root}/{REJECTS}").decode()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines() if line]


def _is_video(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_ENDINGS and not is_hidden(name)
