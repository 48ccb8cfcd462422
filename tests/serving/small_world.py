"""A published workspace in small: 40 videos on 4 topics, 12 users who each like one topic, a ranker trained for an epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import Config, load
from rayrec.pipeline import STAGES
from rayrec.serving.recommendation import UserState
from rayrec.training.data import MAY_READ, RANKER, READS, ranking_data
from rayrec.training.loop import train_ranker
from rayrec.workspace import Stage, StageRun, Workspace
from tests.features.clips import tone, write_clip

WORDS = (["dog", "puppy"], ["sea", "beach"], ["guitar", "song"], ["cake", "sugar"])
LOG_STARTS = 1_700_000_000_000  # UTC ms
FRESH = range(36, 40)  # videos that the log never shows
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")  # enough of one to tell it apart


def video(number: int) -> str:
    return f"v{number}"


def topic_of(number: int) -> int:
    return number % 4


def _write(writes: dict[str, pa.Table]) -> Stage:
    def work(run: StageRun) -> None:
        for name, table in writes.items():
            run.write(name, table)
        run.count(0, 0)

    stage = tables.spec_of(next(iter(writes))).stage
    return Stage(stage, work, writes=tuple(writes))


def _train(run: StageRun) -> None:
    """One epoch, in this process and without Ray."""
    data = ranking_data(run, run.config.ranker, run.config.split)
    scorer, _ = train_ranker(data, run.config.ranker, run.config.training.model_copy(update={"epochs": 1}), run.config.seed)
    scorer.save(run.fs, f"{run.folder}/{RANKER}")


TRAIN = Stage("train", _train, reads=READS, may_read=MAY_READ)


def catalog(media: Path) -> pa.Table:
    """Even videos have a file, 20 is on the web, 21 in a bucket, 22's file has gone, and 23's is no medium."""
    odd = {20: "https://example.org/a.mp4", 21: "s3://bucket/a.mp4", 22: str(media / "gone.mp4"), 23: "/etc/passwd"}
    return pa.table(
        {
            "video_id": [video(n) for n in range(40)],
            "uri": [odd.get(n, str(media / "clip.mp4") if n % 2 == 0 else None) for n in range(40)],
            "title": [f"<b>Clip</b> {n} of {WORDS[topic_of(n)][0]}s" for n in range(40)],
            "tags": [WORDS[topic_of(n)] for n in range(40)],
            "published_at": pa.array([LOG_STARTS] * 40, pa.int64()),
        }
    )


def interactions() -> pa.Table:
    """User u sees four videos an hour for five hours and clicks those of topic u % 4."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", n, LOG_STARTS + hour * 3_600_000 + place, topic_of(n) == user % 4)
        for user in range(12)
        for hour in range(5)
        for place, n in enumerate(rng.choice(16, 4, replace=False).tolist())
    ]
    columns = zip(*rows, strict=True)
    user, item, at, clicked = (list(column) for column in columns)
    return pa.table({"user_id": user, "video_id": [video(n) for n in item], "shown_at": at, "clicked": clicked})


def build_workspace(folder: Path, **settings: object) -> Config:
    """Run the stages that lead to a bundle, in the workspace `folder`."""
    media = folder / "media"
    media.mkdir(parents=True)
    write_clip(media / "clip.mp4", sound=tone(440, 2))
    config = load(None, [f"workspace={folder}", "recall.least_exposures=3", *(f"{key}={value}" for key, value in settings.items())])
    workspace, ids = Workspace(folder), [video(n) for n in range(40)]
    topics = pa.table({"video_id": ids, "topics": [[topic_of(n)] for n in range(40)], "similarity": [[0.9]] * 40})
    centres = pa.table({"topic": range(4), "centre": [[1.0]] * 4, "videos": [10] * 4, "tags": list(WORDS)})
    features = pa.table({"video_id": ids, "status": ["ok"] * 40, "cover_jpeg": [JPEG if n % 2 == 0 else None for n in range(40)]})
    stages = [
        _write({"catalog": catalog(media), "interactions": interactions()}),
        _write({"features": features}),
        _write({"topics": topics, "topic_centres": centres}),
        TRAIN,
        STAGES["publish"],
    ]
    for stage in stages:
        workspace.run(stage, config)
    return config


async def rank_by_number(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """A ranker that likes high item numbers."""
    return candidates.astype(np.float32) / 100


async def rank_by_last_click(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """A ranker that likes videos on the topic of the last click, and high item numbers."""
    alike = candidates % 4 == user.clicked[-1] % 4 if len(user.clicked) else np.zeros(len(candidates), bool)
    return (0.5 * alike + candidates / 100).astype(np.float32)
