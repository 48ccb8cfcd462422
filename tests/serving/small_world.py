"""A published workspace in small: 40 videos on 4 topics, 12 users who each like one topic, a ranker trained for an epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import Config, load, settings_of
from rayrec.data.loading import MAY_READ, RANKER, READS
from rayrec.ranking.fitting import train_ranker
from rayrec.serving.recommender import UserState
from rayrec.stages.encode import STAGE as ENCODE
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.features.clips import tone, write_clip
from tests.fixtures.encoded import whole_log
from tests.fixtures.ranking import small_maps

WORDS = (["dog", "puppy"], ["sea", "beach"], ["guitar", "song"], ["cake", "sugar"])
LOG_STARTS = 1_700_000_000_000  # UTC ms
FRESH = range(36, 40)  # videos that the log never shows
DEAD_STORE = "s3://key:hidden@bucket/a.mp4?endpoint_override=127.0.0.1:1&scheme=http"
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")  # enough of one to tell it apart


def video(number: int) -> str:
    return f"v{number}"


def topic_of(number: int) -> int:
    return number % 4


def author_of(number: int) -> str | None:
    """Each of five authors has videos on all topics; those of the last eight videos are not known."""
    return f"a{number % 5}" if number < 32 else None


def write_tables(writes: dict[str, pa.Table]) -> Stage:
    def work(run: StageRun) -> None:
        for name, table in writes.items():
            run.write(name, table)
        run.count(0, 0)

    stage = tables.spec_of(next(iter(writes))).stage
    return Stage(stage, work, writes=tuple(writes))


def _train(run: StageRun) -> None:
    """One epoch, in this process and without Ray."""
    data = whole_log(run.workspace, run.config)
    scorer, _ = train_ranker(data, run.config.ranker, run.config.training.model_copy(update={"epochs": 1}), run.config.seed)
    scorer.save(run.fs, f"{run.folder}/{RANKER}")


TRAIN = Stage(
    "train",
    _train,
    reads=READS,
    may_read=MAY_READ,
    after=("encode",),
    settings=lambda config: settings_of(config.ranker),
    first=(ENCODE,),
)


def catalog(media: Path, count: int = 40) -> pa.Table:
    """Even videos have a file, 20 is on the web, 21 in a store that does not answer, 22's file has gone, and 23's is no medium."""
    odd = {20: "https://example.org/a.mp4", 21: DEAD_STORE, 22: str(media / "gone.mp4"), 23: "/etc/passwd"}
    return pa.table(
        {
            "video_id": [video(n) for n in range(count)],
            "uri": [odd.get(n, str(media / "clip.mp4") if n % 2 == 0 else None) for n in range(count)],
            "title": [f"<b>Clip</b> {n} of {WORDS[topic_of(n)][0]}s" for n in range(count)],
            "tags": [WORDS[topic_of(n)] for n in range(count)],
            "author_id": [author_of(n) for n in range(count)],
            "published_at": pa.array([LOG_STARTS] * count, pa.int64()),
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
    columns = zip(*sorted(rows, key=lambda row: row[2]), strict=True)
    user, item, at, clicked = (list(column) for column in columns)
    return pa.table({"user_id": user, "video_id": [video(n) for n in item], "shown_at": at, "clicked": clicked})


def embeddings(count: int) -> pa.Table:
    """A video points where its topic does, with a turn towards the next topic that grows with its number; v39 has none."""
    numbers = [n for n in range(count) if n != 39]
    vectors = [
        [np.cos(0.01 * n) * (topic == topic_of(n)) + np.sin(0.01 * n) * (topic == topic_of(n + 1)) for topic in range(4)]
        for n in numbers
    ]
    return pa.table({"video_id": [video(n) for n in numbers], "vector": pa.array(vectors, pa.list_(pa.float32()))})


def _tables(media: Path, count: int, log: pa.Table) -> list[Stage]:
    """The stages before training, for a catalog of so many videos."""
    ids = [video(n) for n in range(count)]
    topics = pa.table({"video_id": ids, "topics": [[topic_of(n)] for n in range(count)], "similarity": [[0.9]] * count})
    centres = pa.table({"topic": range(4), "centre": [[1.0]] * 4, "videos": [count // 4] * 4, "tags": list(WORDS)})
    covers = [JPEG if n % 2 == 0 else None for n in range(count)]
    return [
        write_tables({"catalog": catalog(media, count), "interactions": log}),
        write_tables({"features": pa.table({"video_id": ids, "status": ["ok"] * count, "cover_jpeg": covers})}),
        write_tables({"topics": topics, "topic_centres": centres, "embeddings": embeddings(count)}),
        write_tables({"vectors": pa.table({"video_id": ids} | small_maps(count))}),
    ]


def build_workspace(folder: Path, **settings: object) -> Config:
    """Run the stages that lead to a bundle, in the workspace `folder`."""
    media = folder / "media"
    media.mkdir(parents=True)
    write_clip(media / "clip.mp4", sound=tone(440, 2))
    config = load(None, [f"workspace={folder}", "recall.min_exposures=3", *(f"{key}={value}" for key, value in settings.items())])
    for stage in (*_tables(media, 40, interactions()), TRAIN, load_stage("publish")):
        run_stage(Workspace(folder), stage, config)
    return config


def publish_catalog_of(config: Config, count: int, log: pa.Table | None = None) -> str:
    """Publish once more with so many videos in the catalog, without training. Returns the version."""
    workspace = Workspace(config.workspace)
    for stage in _tables(Path(config.workspace) / "media", count, interactions() if log is None else log):
        run_stage(workspace, stage, config, force=True)
    return run_stage(workspace, load_stage("publish"), config)[0].version


def publish_without_log(config: Config, count: int = 40) -> str:
    """Publish once more with so many videos and a log that has no impressions. Returns the version."""
    return publish_catalog_of(config, count, tables.empty("interactions"))


async def rank_by_number(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """A ranker that likes high item numbers."""
    return candidates.astype(np.float32) / 100


async def rank_by_last_click(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """A ranker that likes videos on the topic of the last click, and high item numbers."""
    alike = candidates % 4 == user.clicked[-1] % 4 if len(user.clicked) else np.zeros(len(candidates), bool)
    return (0.5 * alike + candidates / 100).astype(np.float32)
