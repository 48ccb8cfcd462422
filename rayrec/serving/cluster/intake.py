"""The deployment that describes new videos: it decodes them, runs the networks, and puts what is known of them into the store."""

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from rayrec.config import Config
from rayrec.errors import RayrecError
from rayrec.serving import covers
from rayrec.serving.additions import AddedVideo, RejectedError
from rayrec.serving.bundle import Bundle, BundleError, locate, model_of
from rayrec.serving.cluster.replicas import bind_to_node_address, bundles_of, copies_folder
from rayrec.serving.http.bodies import NewVideo
from rayrec.serving.http.errors import checked
from rayrec.serving.http.request_log import log_as_json
from rayrec.serving.inbox import Described, uris_of
from rayrec.serving.media_roots import missing_folders, permitted
from rayrec.serving.placing import Placer
from rayrec.serving.recommender import now_ms
from rayrec.serving.rollout.arms import Rollout
from rayrec.serving.rollout.versions import VersionCache
from rayrec.serving.state.opening import open_store
from rayrec.serving.watching import WatchedFile, WatchedFolder
from rayrec.tables import TEXT
from rayrec.workspace.versions import Workspace

TORCH_THREADS = 2
LINGER_S = 600.0  # how long a model that is no longer wanted is kept
PRUNE_INTERVAL_S = 3600.0

log = logging.getLogger(__name__)


class VideoIntake:
    """Describes one video after the other, each with the models of all bundles in use, and looks after the watched folder.

    A model is what bundles share that describe videos alike (`Bundle.model`). Its networks are loaded when the replica starts.
    """

    def __init__(self, config: Config) -> None:
        bind_to_node_address()
        log_as_json()
        assert config.serving.uploads is not None
        torch.set_num_threads(TORCH_THREADS)
        self.config, self.settings = config, config.serving.uploads
        self.workspace, self.store = Workspace(config.workspace), open_store(config)
        self.placers = VersionCache(self._load)
        self.folders: dict[str, str] = {}  # model -> the folder of a bundle that has it
        self.wanted: list[str] = []  # the models of the bundles in use, the stable one's first
        self.bundles: list[Bundle] = []  # in use
        self._decoding, self._computing = asyncio.Lock(), asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        self._started = False

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new replica is ready once it has loaded what is wanted, and raises if it can't.

        A running replica loads it while it goes on working, and doesn't raise: TopicRecall decides which bundles are served, and
        asks for them to be prepared.
        """
        rollout = Rollout.model_validate(user_config)
        if self._started:
            self._start(self._switch(rollout))
            return
        await self._want(rollout)
        self._started = True
        self._start(self._prune())
        for problem in await asyncio.to_thread(missing_folders, self.config):
            log.warning("%s", problem)
        if self.settings.watch_folder is not None:
            self._start(self._watch(WatchedFolder(self.settings.watch_folder, self.workspace)))

    async def prepare(self, version: str) -> int:
        """Loads what describes videos in a bundle, and describes those that were added but are not in it. Returns their number.

        Raises `BundleError` if the bundle has nothing that describes videos, or is broken.
        """
        _, folder = await asyncio.to_thread(locate, self.workspace, version)
        model = await asyncio.to_thread(self._model_in, folder)
        await asyncio.to_thread(self.placers.get, model)
        bundle = await asyncio.to_thread(self._bundle, folder, version)
        missing = await asyncio.to_thread(self._missing, model, bundle)
        for facts in missing:
            try:
                await self._described(model, facts)
            except Exception as problem:  # the others go on
                log.warning("video %r can't be described for bundle %s: %s", facts["video_id"], version, problem)
        return len(missing)

    async def add(self, facts: dict[str, Any]) -> Described:
        """Describes a new video, a row of the catalog, and puts it into the store. Raises `BundleError` while nothing is loaded."""
        if not self.wanted:
            raise BundleError("no bundle is loaded that can describe new videos; the log of VideoIntake says why")
        fault, uri = None, None
        try:
            for model in self.wanted:
                uri, fault = await self._described(model, facts)
        except RejectedError as problem:
            return Described(str(problem))
        return Described(None, fault, uri)

    async def _described(self, model: str, facts: dict[str, Any]) -> tuple[str | None, str | None]:
        """Describes a video with a model. Returns the file of the video that the store has under this id, and the fault of ours."""
        placer = await asyncio.to_thread(self.placers.get, model)
        async with self._decoding:
            decoded = await asyncio.to_thread(placer.decode, facts, self.settings.decode_timeout_s)
        async with self._computing:
            video, jpeg, fault = await asyncio.to_thread(placer.describe, decoded, facts, self.config.search is not None)
        kept = await asyncio.to_thread(self._keep, model, video, jpeg)
        return kept.facts["uri"], fault

    def _keep(self, model: str, video: AddedVideo, jpeg: bytes | None) -> AddedVideo:
        if jpeg is not None:
            name = f"{covers.ADDED}/{hashlib.sha256(jpeg).hexdigest()[:32]}.jpeg"
            self.workspace.write_file(f"{covers.FOLDER}/{name}", jpeg)
            video = replace(video, cover=name)
        return AddedVideo.from_json(self.store.add_video(video.video_id, model, video.to_json()).row)

    # --- models ---

    async def _switch(self, rollout: Rollout) -> None:
        try:
            await self._want(rollout)
        except Exception:
            log.exception("what describes new videos can't be loaded for %s", rollout)

    async def _want(self, rollout: Rollout) -> None:
        """Loads the models of the bundles of a rollout, and begins to describe with them what they lack."""
        found = await asyncio.to_thread(bundles_of, self.workspace, rollout)
        models = [await asyncio.to_thread(self._model_in, folder) for _, folder in found]
        for model in models:
            await asyncio.to_thread(self.placers.get, model)
        self.bundles = [await asyncio.to_thread(self._bundle, folder, version) for version, folder in found]
        # The recall replicas may serve what they had for a while, or for good.
        self.wanted = list(dict.fromkeys([*models, *self.wanted]))
        self._start(self._forget_others(models))
        self._start(self._prepare_all([version for version, _ in found]))

    async def _forget_others(self, models: list[str]) -> None:
        """Drops the models that no bundle in use has, after a while and unless others are wanted then."""
        await asyncio.sleep(LINGER_S)
        if self.wanted[: len(models)] == models:
            self.wanted = list(dict.fromkeys(models))
            self.placers.drop(set(models), LINGER_S)

    async def _prepare_all(self, versions: list[str]) -> None:
        for version in versions:
            try:
                await self.prepare(version)
            except Exception:
                log.exception("bundle %s: added videos could not be described for it", version)

    def _model_in(self, folder: str) -> str:
        """The model of a bundle; it is noted where to find it."""
        model = model_of(self.workspace.fs, folder)
        self.folders[model] = folder
        return model

    def _load(self, model: str) -> Placer:
        placer = Placer.load(self.workspace.fs, self.folders[model])
        placer.warm_up(self.settings.decode_timeout_s)
        log.info("%s: the networks that describe new videos are loaded", self.folders[model])
        return placer

    def _bundle(self, folder: str, version: str) -> Bundle:
        return Bundle.load(self.workspace.fs, folder, version, copies_folder())

    def _missing(self, model: str, bundle: Bundle) -> list[dict[str, Any]]:
        """The catalog's rows of the videos that were added, are not in a bundle, and are not described by a model."""
        rows: dict[str, str] = {}
        described = set[str]()
        for addition in self.store.additions(0):
            rows[addition.video_id] = addition.row
            if addition.model == model:
                described.add(addition.video_id)
        ids = pa.array(list(rows.keys() - described), TEXT)
        absent = ids.filter(pc.invert(pc.is_in(ids, value_set=bundle.items["video_id"].combine_chunks())))
        return [AddedVideo.from_json(rows[video_id]).facts for video_id in absent.to_pylist()]

    def _remove_published(self) -> int:
        """Removes the added videos that all published bundles hold from the store, also those that a rollback may return to."""
        additions = self.store.additions(0)
        ids = pc.unique(pa.array([addition.video_id for addition in additions], TEXT))
        for manifest in self.workspace.versions("publish") if len(ids) else []:
            _, folder = locate(self.workspace, manifest.version)
            held = self._bundle(folder, manifest.version).items["video_id"].combine_chunks()
            ids = ids.filter(pc.is_in(ids, value_set=held))
        gone = set(ids.to_pylist())
        numbers = [addition.number for addition in additions if addition.video_id in gone]
        if numbers:
            self.store.remove_additions(numbers)
        return len(gone)

    async def _prune(self) -> None:
        """Removes what is no longer needed, once an hour."""
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                if removed := await asyncio.to_thread(self._remove_published):
                    log.info("%d added videos are in all published bundles, and no longer kept beside them", removed)
            except Exception:
                log.exception("added videos that bundles hold could not be removed; trying again")

    # --- the watched folder ---

    async def _watch(self, folder: WatchedFolder) -> None:
        log.info("videos that appear in %s are added", folder.folder)
        while True:
            await asyncio.sleep(self.settings.watch_s)
            try:
                for file in await asyncio.to_thread(folder.look):
                    await self._take(folder, file)
            except Exception:
                log.exception("the folder %s can't be looked through; trying again", folder.folder)

    async def _take(self, folder: WatchedFolder, file: WatchedFile) -> None:
        """Adds a file of the watched folder, or rejects it. It is left for the next look if something else is in the way."""
        try:
            facts = await asyncio.to_thread(_facts_of, folder, file)
            if uris := await asyncio.to_thread(self._uris_of, facts["video_id"]):
                reason = None if file.uri in uris else f"video_id: {facts['video_id']!r} is the id of another video"
            else:
                reason = (await self.add(facts)).error
        except (RayrecError, ValueError) as problem:
            if isinstance(problem, BundleError):
                raise
            reason = str(problem)
        if reason is None:
            folder.done(file)
            log.info("%s/%s is added", folder.folder, file.name)
        else:
            await asyncio.to_thread(folder.reject, file, reason)

    def _uris_of(self, video_id: str) -> list[str | None]:
        """The file of a video in the store and in each bundle that is in use."""
        found = uris_of(video_id, self.store, None)
        for bundle in self.bundles:
            row = pc.index(bundle.items["video_id"], video_id).as_py()
            found += [bundle.items["uri"][row].as_py()] if row >= 0 else []
        return found

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs a coroutine in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return task


def _facts_of(folder: WatchedFolder, file: WatchedFile) -> dict[str, Any]:
    """The catalog's row of a file. Raises `ValueError` or `NotPermittedError` for a JSON file beside it that can't be used."""
    told = checked(NewVideo, {"video_id": file.video_id} | folder.sidecar(file), f"the file {file.name}").model_dump()
    cover = permitted(told["cover_uri"], [folder.folder], "cover_uri") if told["cover_uri"] else None
    return told | {"uri": file.uri, "cover_uri": cover, "published_at": told["published_at"] or now_ms()}
