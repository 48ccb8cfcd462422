"""Simulates who publishes videos of which topics, and who watches and clicks them, whatever the videos are made of.

A video has one main topic, which its classes name. In each modality a share of the videos may mislead: their picture, sound or
words show another topic. The choice model is in `choice.py`, the logging policy in `exposure.py`.

Users have two side columns: `age_group` is weakly related to some primary classes, and `region` to nothing. The `truth_*` tables
hold what no real data set offers: the topics, the probability of every click, and what people would have made of every video.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import SimulatedData
from rayrec.datasets.synthetic.choice import (
    LIKES_SD,
    MODALITIES,
    QUALITY_SD,
    Tastes,
    click_probability,
    expected_watch_seconds,
    like_probability,
    make_tastes,
)
from rayrec.datasets.synthetic.exposure import DAY_MS, PAGE, Log, Stock, browse, visits
from rayrec.datasets.synthetic.media import Clip

START_MS = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1000)  # the log's first midnight, a Monday
MEDIA = "media"
BACKLOG_DAYS = 30  # the earlier videos were published in this number of days before it
VIDEOS_PER_AUTHOR = 8
SECONDS = (3.1, 5.9)  # the shortest and the longest clip
AGE_GROUPS = ("13-17", "18-24", "25-34", "35-49", "50+")
REGIONS = ("north", "east", "south", "west")


@dataclass(frozen=True)
class Taxonomy:
    """The primary and the secondary class of each topic, as numbers, and how many primary classes there are."""

    primary: np.ndarray
    secondary: np.ndarray
    primaries: int


@dataclass(frozen=True)
class Videos:
    """What is simulated of the videos. All arrays are over videos."""

    topic: np.ndarray
    author: np.ndarray
    stock: Stock
    frames: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return _ids("v", len(self.topic))


@dataclass(frozen=True)
class World:
    """The uris of `catalog` are relative to the folder in which MEDIA, the folder of the clips, is."""

    catalog: pa.Table
    interactions: pa.Table
    users: pa.Table
    truth: dict[str, pa.Table]
    clips: Sequence[Clip]
    tastes: Tastes


def make_videos(settings: SimulatedData, taxonomy: Taxonomy, seed: int) -> Videos:
    """Authors have one to three topics. The topic of a video is one of its author's, or in a tenth of the videos any topic."""
    rng = random_of(seed, 1)
    total, topics = settings.videos, len(taxonomy.primary)
    authors = max(2, total // VIDEOS_PER_AUTHOR)
    first = rng.permutation(np.arange(authors) % topics)  # so that every topic has an author, when there are enough
    author_topics = [[topic, *rng.choice(topics, rng.integers(0, 3))] for topic in first]
    author = rng.choice(authors, total, p=rng.dirichlet(np.full(authors, 6.0)))
    topic = np.array([rng.choice(author_topics[a]) for a in author])
    topic = np.where(rng.uniform(size=total) < 0.1, rng.integers(topics, size=total), topic)
    shown = np.repeat(topic[:, None], len(MODALITIES), axis=1)
    # Any other topic: 1 to topics-1 steps further in the cycle.
    elsewhere = (shown + rng.integers(1, topics, shown.shape)) % topics
    shown = np.where(rng.uniform(size=shown.shape) < settings.misleading, elsewhere, shown)
    frames = rng.integers(int(np.ceil(SECONDS[0] * settings.fps)), int(SECONDS[1] * settings.fps) + 1, total)
    stock = Stock(
        published_ms=_publish_times(total, settings.days, rng),
        secondary=taxonomy.secondary[topic],
        shown=shown,
        quality=rng.normal(0, QUALITY_SD, total),
        duration_s=frames / settings.fps,
    )
    return Videos(topic, author, stock, frames)


def with_people(
    settings: SimulatedData, taxonomy: Taxonomy, videos: Videos, described: dict[str, object], clips: Sequence[Clip], seed: int
) -> World:
    """The world of these videos, whose catalog has the columns `described` as well, and the log of a feed that showed them."""
    groups, tastes = _make_users(settings, taxonomy, random_of(seed, 2))
    feed_random = random_of(seed, 3)
    user, at_ms = visits(settings.users, settings.requests, settings.videos, settings.days, feed_random)
    log = browse(videos.stock, tastes, user, at_ms, feed_random)
    likes, liked = _likes(log, videos.stock, settings.users, random_of(seed, 9))
    return World(
        catalog=_catalog(videos, described),
        interactions=_interactions(log, liked, settings),
        users=_users(groups, random_of(seed, 6)),
        truth=_truth(videos, tastes, likes, log, settings),
        clips=clips,
        tastes=tastes,
    )


def random_of(seed: int, part: int) -> np.random.Generator:
    """The random stream of one part of a world. A change in one part does not change the others."""
    return np.random.default_rng((seed, part))


def _catalog(videos: Videos, described: dict[str, object]) -> pa.Table:
    simulated: dict[str, object] = {
        "video_id": videos.ids,
        "uri": [f"{MEDIA}/{video}.mp4" for video in videos.ids],
        "author_id": [f"a{author:03d}" for author in videos.author],
        "published_at": START_MS + videos.stock.published_ms,
        "duration_s": videos.stock.duration_s.astype(np.float32),
    }
    return tables.from_columns("catalog", simulated | described)


def _publish_times(total: int, days: int, rng: np.random.Generator) -> np.ndarray:
    """Ms since the first midnight: 5 % on the last day (early enough to be seen), 3 % on each day before it, the others earlier.

    At least one page of videos is published before the log begins.
    """
    daily = [round(0.03 * total)] * (days - 1) + [round(0.05 * total)]
    while sum(daily) > total - PAGE:
        daily[daily.index(max(daily))] -= 1
    parts = [day * DAY_MS + rng.integers(0, DAY_MS * 3 // 4, count) for day, count in enumerate(daily)]
    backlog = rng.integers(-BACKLOG_DAYS * DAY_MS, 0, total - sum(daily))
    return rng.permutation(np.concatenate([backlog, *parts]))


def society(settings: SimulatedData, taxonomy: Taxonomy, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The age group of each user, and how likely somebody of each group likes a topic: [groups, topics], rows that sum to 1.

    Each group likes two primary classes half as much again.
    """
    popularity = rng.dirichlet(np.full(len(taxonomy.primary), 6.0))  # some topics are liked by more people than others
    groups = rng.integers(len(AGE_GROUPS), size=settings.users)
    favoured = np.array([rng.choice(taxonomy.primaries, 2, replace=False) for _ in AGE_GROUPS])
    leaning = 1 + 0.5 * (favoured[:, :, None] == taxonomy.primary).any(axis=1)
    appeal = (popularity + 1e-6) * leaning
    return groups, appeal / appeal.sum(axis=1, keepdims=True)


def _make_users(settings: SimulatedData, taxonomy: Taxonomy, rng: np.random.Generator) -> tuple[np.ndarray, Tastes]:
    """Age groups, and tastes that are weakly related to them."""
    groups, appeal = society(settings, taxonomy, rng)
    return groups, make_tastes(appeal[groups], taxonomy.secondary, settings.days, rng)


def _likes(log: Log, stock: Stock, users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How freely each user gives likes, [users], and which impressions were liked.

    They are drawn apart from the feed, which no like changes.
    """
    likes = rng.normal(0, LIKES_SD, users)
    probability = like_probability(log.affinity, stock.quality[log.video], likes[log.user])
    return likes, log.clicked & (rng.uniform(size=len(probability)) < probability)


def _interactions(log: Log, liked: np.ndarray, settings: SimulatedData) -> pa.Table:
    return tables.from_columns(
        "interactions",
        {
            "user_id": _ids("u", settings.users)[log.user],
            "video_id": _ids("v", settings.videos)[log.video],
            "shown_at": START_MS + log.at_ms,
            "clicked": log.clicked,
            "watch_s": log.watch_s.astype(np.float32),
            "liked": liked,
            "request_id": _ids("r", settings.requests)[log.request],
        },
    )


def _users(groups: np.ndarray, rng: np.random.Generator) -> pa.Table:
    return tables.from_columns(
        "users",
        {
            "user_id": _ids("u", len(groups)),
            "age_group": pa.array([AGE_GROUPS[group] for group in groups], tables.TEXT),
            "region": pa.array([REGIONS[region] for region in rng.integers(len(REGIONS), size=len(groups))], tables.TEXT),
        },
    )


def _truth(videos: Videos, tastes: Tastes, likes: np.ndarray, log: Log, settings: SimulatedData) -> dict[str, pa.Table]:
    last_day = settings.days - 1
    present = np.unique(log.user[log.at_ms // DAY_MS == last_day])
    stock, affinity = videos.stock, tastes.affinity(present, last_day, videos.stock.shown)
    preferences = click_probability(affinity, stock.quality, 0)
    seconds = preferences * expected_watch_seconds(affinity, stock.duration_s)
    liked = preferences * like_probability(affinity, stock.quality, likes[present, None])
    user_ids, video_ids = _ids("u", settings.users), videos.ids
    columns: dict[str, dict[str, object]] = {
        "truth_topics": {"video_id": video_ids, "topic": videos.topic.astype(np.int32)},
        "truth_clicks": {
            "request_id": _ids("r", settings.requests)[log.request],
            "video_id": video_ids[log.video],
            "click_probability": log.probability.astype(np.float32),
        },
        "truth_preferences": {
            "user_id": np.repeat(user_ids[present], len(video_ids)),
            "video_id": np.tile(video_ids, len(present)),
            "click_probability": preferences.ravel().astype(np.float32),
            "watch_s": seconds.ravel().astype(np.float32),
            "like_probability": liked.ravel().astype(np.float32),
        },
    }
    return {name: tables.from_columns(name, table) for name, table in columns.items()}


def _ids(letter: str, total: int) -> np.ndarray:
    return np.array([f"{letter}{number:0{len(str(total - 1))}d}" for number in range(total)], dtype=object)
