"""An inbox for new videos whose describer is played."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from rayrec.config import Config, Serving, Uploads
from rayrec.serving.additions import AddedVideo
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.inbox import Described, Inbox
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms
from rayrec.workspace.versions import Workspace


class Desk:
    """An inbox whose describer is played: it puts into the store what it is given, unless the file says that it is bad."""

    def __init__(self, recommender: Recommender, config: Config, **uploads: Any) -> None:
        self.recommender, self.metrics = recommender, LocalMetrics()
        self.serving = Serving(uploads=Uploads(**uploads))
        self.asked: list[dict[str, Any]] = []
        self.told = 0
        self.gate: Callable[[], Any] = lambda: None
        config = config.model_copy(update={"serving": self.serving})
        workspace = Workspace(config.workspace)
        self.inbox = Inbox(config, workspace, recommender.store, lambda: Arms(recommender), self.describe, self.tell)

    def api(self, keys: Keys | None = None) -> FastAPI:
        return create_api(lambda: Arms(self.recommender), self.serving, keys or Keys(), self.metrics, list, self.inbox)

    async def describe(self, facts: dict[str, Any]) -> Described:
        self.asked.append(facts)
        if (waiting := self.gate()) is not None:
            await waiting
        content = Path(facts["uri"]).read_bytes() if facts["uri"] and Path(facts["uri"]).is_file() else b""
        if content.startswith(b"bad"):
            return Described("not a video or sound file")
        row = AddedVideo(facts, [3], [0.9]).to_json()
        kept = AddedVideo.from_json(self.recommender.store.add_video(facts["video_id"], "", row).row)
        return Described(None, "sound: nothing could be decoded" if content.startswith(b"mute") else None, kept.facts["uri"])

    async def tell(self) -> None:
        self.told += 1
