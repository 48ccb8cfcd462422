"""A world to serve, made in seconds: a catalog and a log at random, topics given, and a ranker trained for one epoch.

Training, publishing and serving are the project's own; only media and the learning of topics are left out.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import Config, load
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

DAY_MS = 86_400_000
TOPICS_OF_A_VIDEO, TOPICS_OF_A_USER = 2, 4
VECTOR_SIZE = 64


@dataclass(frozen=True)
class Size:
    videos: int
    users: int
    impressions: int
    topics: int


def build(folder: Path, size: Size, settings: list[str]) -> Config:
    """A workspace with a published bundle."""
    config = load(None, [f"workspace={folder}", "training.epochs=1", "training.without_topics=false", *settings])
    rng, workspace = np.random.default_rng(0), Workspace(folder)
    topics = rng.integers(0, size.topics, (size.videos, TOPICS_OF_A_VIDEO))
    stages = [
        _writing({"catalog": _catalog(size, rng), "interactions": _interactions(size, topics, rng)}),
        _writing({"topics": _topics(topics), "topic_centres": _centres(topics, size.topics), "embeddings": _embeddings(size, rng)}),
        load_stage("train"),
        load_stage("publish"),
    ]
    for stage in stages:
        run_stage(workspace, stage, config)
    return config


def video_ids(count: int) -> list[str]:
    return [f"v{number}" for number in range(count)]


def _writing(content: dict[str, pa.Table]) -> Stage:
    def work(run: StageRun) -> None:
        for name, table in content.items():
            run.write(name, table)
        run.count(0, 0)

    return Stage(tables.spec_of(next(iter(content))).stage, work, writes=tuple(content))


def _catalog(size: Size, rng: np.random.Generator) -> pa.Table:
    count = size.videos
    return pa.table(
        {
            "video_id": video_ids(count),
            "title": [f"What happened at number {number}" for number in range(count)],
            "tags": [[f"tag{tag}" for tag in row] for row in rng.integers(0, 500, (count, 3)).tolist()],
            "author_id": [f"a{author}" for author in rng.integers(0, max(count // 10, 1), count).tolist()],
            "primary_class": [f"class {number % 12}" for number in range(count)],
            "published_at": pa.array([_log_starts() - DAY_MS] * count, pa.int64()),
        }
    )


def _interactions(size: Size, topics: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Users like a few topics: they click three of four videos on these, and one of four of the others."""
    count = size.impressions
    user, video = rng.integers(0, size.users, count), rng.integers(0, size.videos, count)
    liked = rng.integers(0, size.topics, (size.users, TOPICS_OF_A_USER))
    # Every other impression is on a liked topic, as a feed that knows its users would have it.
    by_topic = np.argsort(topics[:, 0], kind="stable")
    starts = np.searchsorted(topics[by_topic, 0], np.arange(size.topics + 1))
    wanted = liked[user, rng.integers(0, TOPICS_OF_A_USER, count)]
    room = starts[wanted + 1] - starts[wanted]
    matched = (rng.random(count) < 0.5) & (room > 0)
    at = np.minimum(starts[wanted] + (rng.random(count) * room).astype(int), size.videos - 1)
    video = np.where(matched, by_topic[at], video)
    likes = (topics[video][:, :, None] == liked[user][:, None, :]).any((1, 2))
    return pa.table(
        {
            "user_id": np.char.add("u", user.astype(str)),
            "video_id": np.char.add("v", video.astype(str)),
            "shown_at": _log_starts() + np.arange(count) * (6 * DAY_MS) // count,
            "clicked": rng.random(count) < np.where(likes, 0.75, 0.25),
        }
    )


def _topics(topics: np.ndarray) -> pa.Table:
    lists = [sorted(set(row)) for row in topics.tolist()]
    return pa.table({"video_id": video_ids(len(lists)), "topics": lists, "similarity": [[0.8] * len(row) for row in lists]})


def _embeddings(size: Size, rng: np.random.Generator) -> pa.Table:
    vectors = rng.standard_normal((size.videos, VECTOR_SIZE)).astype(np.float32)
    return pa.table({"video_id": video_ids(size.videos), "vector": list(vectors)})


def _centres(topics: np.ndarray, count: int) -> pa.Table:
    videos = np.bincount(topics.ravel(), minlength=count).tolist()
    words = [[f"word{topic}", f"tag{topic}"] for topic in range(count)]
    return pa.table({"topic": range(count), "centre": [[1.0]] * count, "videos": videos, "tags": words})


def _log_starts() -> int:
    """A week ago, UTC ms: the log has ended before the first request comes."""
    return int(time.time() // 86_400) * DAY_MS - 7 * DAY_MS
