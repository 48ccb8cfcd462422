"""Takes new videos in: keeps their files, has them described (`serving/placing.py`), and makes them known to the recommenders.

Sending a video again is safe: its id and its file tell that it is there already. The file of an upload is named after its contents.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving import media_roots
from rayrec.serving.additions import FACTS, NO_MODEL, AddedVideo, RejectedError
from rayrec.serving.recommender import OverloadedError, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.store import StateStore, Upload
from rayrec.workspace.files import open_filesystem, write_whole
from rayrec.workspace.stores import join_uri
from rayrec.workspace.versions import Workspace

FOLDER = "uploads"  # in the workspace
ATTEMPTS, BUSY_PAUSE_S = 120, 2.0  # at a video for which nobody waits, while the service is busy
# How the name of an upload ends, by its content type.
KINDS = {
    "video/webm": ".webm",
    "video/quicktime": ".mov",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "video/3gpp": ".3gp",
    "video/mpeg": ".mpg",
    "video/ogg": ".ogv",
    "video/mp2t": ".ts",
    "video/x-flv": ".flv",
}
DIGEST = re.compile("[0-9a-f]{32}")  # the name of an upload
INTERRUPTED_MS = 60 * 60_000  # an upload that is being worked on for longer was lost with its replica

log = logging.getLogger(__name__)


class ConflictError(RayrecError):
    """The id belongs to another video already."""


class Described(NamedTuple):
    """What has become of a video that was to be described."""

    error: str | None  # why it was rejected; None if the store has it
    fault: str | None = None  # what of it could not be read
    uri: str | None = None  # of the video that the store has under this id


Describe = Callable[[dict[str, Any]], Awaitable[Described]]  # of a row of the catalog


class Added(NamedTuple):
    """A video that is in the recommenders, or about to be."""

    video_id: str
    new: bool  # whether it came with this call
    fault: str | None = None


class Inbox:
    """Where the videos of callers arrive. `tell` has the rankers take the videos that the recommenders have got.

    Without `describe`, it takes no files: of a video, no more is known then than what the caller says.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        store: StateStore,
        arms: Callable[[], Arms],
        describe: Describe | None,
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        self.store, self.arms, self.describe, self.tell = store, arms, describe, tell
        uploads = config.serving.uploads
        self.folder = (uploads.folder if uploads else None) or join_uri(workspace.uri, FOLDER)
        self.roots = media_roots.roots_of(config)
        self._later = asyncio.Lock()  # those for which nobody waits are described one after the other
        self._tasks = set[asyncio.Task[Any]]()

    async def add(self, given: Mapping[str, Any], data: bytes | None, suffix: str, wait: bool, show: bool = True) -> Added:
        """Adds a video. `given` are columns of the catalog; with `data`, they are the file, whose name ends with `suffix`.

        Without data and `uri`, the video has no file, and must have a `video_id`.

        Without `show`, the video is in the store, and the recommenders know it after a call of `show`.

        Without `wait`, it returns when the file is kept, and `status` tells the rest. Raises `NotPermittedError` for a file that
        may not be read, `ConflictError` for an id that is taken, `RejectedError` for media that can't be read, what the store
        raises, and what `describe` raises.
        """
        facts: dict[str, Any] = {name: given.get(name) for name in FACTS}
        digest: str | None = None
        if data is not None:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()[:32])
            facts["uri"] = join_uri(self.folder, digest + suffix)
        elif given["uri"] is not None:
            facts["uri"] = await asyncio.to_thread(media_roots.permitted, given["uri"], self.roots)
        if facts["cover_uri"]:
            facts["cover_uri"] = await asyncio.to_thread(media_roots.permitted, facts["cover_uri"], self.roots, "cover_uri")
        facts["video_id"] = facts["video_id"] or f"v-{digest or hashlib.sha256(facts['uri'].encode()).hexdigest()[:32]}"
        facts["published_at"] = now_ms() if facts["published_at"] is None else facts["published_at"]
        if await asyncio.to_thread(self._is_known, facts):
            if not self._is_shown(facts["video_id"]):
                await self.show()
            if self._is_shown(facts["video_id"]):  # otherwise only the model of another bundle has described it
                return Added(facts["video_id"], new=False)
        kept = data is not None and await asyncio.to_thread(_keep, facts["uri"], data)
        if wait:
            added = await self._describe(facts, kept)
            if show:
                await self.show()
            return added
        await asyncio.to_thread(self.store.note_upload, facts["video_id"], Upload(now_ms(), None))
        task = asyncio.create_task(self._describe_later(facts, kept))
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return Added(facts["video_id"], new=True)

    def status(self, video_id: str) -> str | None:
        """What has become of a video that was sent: "ready", "waiting", or why it was rejected. None if none with this id came."""
        if self._is_shown(video_id):
            return "ready"
        upload = self.store.upload(video_id)
        if upload is None:
            return "waiting" if self.store.additions_of(video_id) else None
        if upload.error is None and now_ms() - upload.at > INTERRUPTED_MS:
            return "the work on it was interrupted; send the video again"
        return upload.error or "waiting"

    def _is_shown(self, video_id: str) -> bool:
        """Whether a video may be in pages."""
        return any(recommender.items.find(video_id) for recommender in self.arms().named().values())

    async def _describe(self, facts: dict[str, Any], kept: bool) -> Added:
        try:
            done = await (self.describe or self._note)(facts)
            if done.error is not None:
                raise RejectedError(done.error)
            if done.uri is not None and not _is_same(done.uri, facts["uri"]):
                raise _conflict(facts)
        except OverloadedError:  # it may be described all the same, and needs its file then
            raise
        except Exception:
            if kept:
                await asyncio.to_thread(_remove, facts["uri"])
            raise
        return Added(facts["video_id"], new=True, fault=done.fault)

    async def _note(self, facts: dict[str, Any]) -> Described:
        """Puts a video into the store as the caller describes it."""
        row = await asyncio.to_thread(self.store.add_video, facts["video_id"], NO_MODEL, AddedVideo(facts).to_json())
        return Described(None, uri=AddedVideo.from_json(row.row).facts["uri"])

    async def _describe_later(self, facts: dict[str, Any], kept: bool) -> None:
        """Notes what became of the video. While the service is busy, it waits."""
        error: str | None = "the service was busy for too long; send the video again"
        async with self._later:
            for _ in range(ATTEMPTS):
                try:
                    await self._describe(facts, kept)
                    await self.show()
                    error = None
                except OverloadedError:
                    await asyncio.sleep(BUSY_PAUSE_S)
                    continue
                except RayrecError as problem:
                    error = str(problem)
                except Exception as problem:
                    log.exception("video %r could not be added", facts["video_id"])
                    error = f"the service could not describe it ({type(problem).__name__}); send the video again"
                break
        upload = None if error is None else Upload(now_ms(), error)
        await asyncio.to_thread(self.store.note_upload, facts["video_id"], upload)

    async def show(self) -> None:
        """Has the recommenders and the rankers take what is new in the store."""
        for recommender in self.arms().named().values():
            await asyncio.to_thread(recommender.refresh, now_ms())
        await self.tell()

    def _is_known(self, facts: dict[str, Any]) -> bool:
        """Whether the video is there already. Raises `ConflictError` if another one has its id."""
        for uri in uris_of(facts["video_id"], self.store, self.arms()):
            if not _is_same(uri, facts["uri"]):
                raise _conflict(facts)
            return True
        return False


def uris_of(video_id: str, store: StateStore, arms: Arms | None) -> list[str | None]:
    """The file of a video in each place that knows it."""
    found: list[str | None] = []
    for recommender in arms.named().values() if arms else ():
        if item := recommender.items.find(video_id):
            found.append(recommender.items.facts_of(np.array([item]))[0]["uri"])
    return found + [AddedVideo.from_json(addition.row).facts["uri"] for addition in store.additions_of(video_id)]


def suffix_of(kind: str) -> str:
    """How the name of a file ends, by its content type."""
    return KINDS.get(kind, ".mp4")


def _is_same(one: str | None, other: str | None) -> bool:
    """Whether two names are those of one file. An upload is named after its contents, whatever its ending."""
    if one is None or other is None or one == other:
        return one == other
    names = (PurePosixPath(one), PurePosixPath(other))
    return names[0].with_suffix("") == names[1].with_suffix("") and DIGEST.fullmatch(names[0].stem) is not None


def _conflict(facts: dict[str, Any]) -> ConflictError:
    return ConflictError(f"video_id: {facts['video_id']!r} is the id of another video; choose another id, or leave it out")


def _keep(uri: str, data: bytes) -> bool:
    """Writes a file unless it is there already, and returns whether it did."""
    fs, path = open_filesystem(uri)
    if fs.get_file_info(path).is_file:
        return False
    write_whole(fs, path, data)
    return True


def _remove(uri: str) -> None:
    fs, path = open_filesystem(uri)
    fs.delete_file(path)
