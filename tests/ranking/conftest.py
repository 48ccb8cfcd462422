"""A small log of chance clicks, with everything a ranker can use."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Ranker, Split
from rayrec.ranking.examples import RankingData, join_items, prepare

VIDEOS, USERS, IMPRESSIONS = 40, 12, 600


@pytest.fixture
def raw() -> dict[str, pa.Table]:
    rng = np.random.default_rng(1)
    ids = [f"v{i}" for i in range(VIDEOS)]
    return {
        "catalog": pa.table(
            {
                "video_id": ids,
                "author_id": [f"a{i % 5}" for i in range(VIDEOS)],
                "tags": [["x", f"t{i % 3}"] for i in range(VIDEOS)],
            }
        ),
        "topics": pa.table(
            {"video_id": ids[::-1], "topics": pa.array([[i % 4, 4 + i % 3] for i in range(VIDEOS)], pa.list_(pa.int32()))}
        ),
        "vectors": pa.table(
            {
                "video_id": ids[:30],
                "audio": pa.array(list(rng.normal(5, 2, (30, 3)).astype(np.float32)), pa.list_(pa.float32())),
                "cover": pa.array([None, *rng.normal(0, 1, (29, 4)).astype(np.float32)], pa.list_(pa.float32())),
            }
        ),
        "users": pa.table({"user_id": ["u1", "u2"], "age": [20.0, 40.0], "region": ["north", None]}),
        "interactions": pa.table(
            {
                "user_id": [f"u{i}" for i in rng.integers(0, USERS, IMPRESSIONS)],
                "video_id": [f"v{i}" for i in rng.integers(0, VIDEOS, IMPRESSIONS)],
                "shown_at": rng.integers(0, 10_000, IMPRESSIONS) * 60_000,
                "clicked": rng.random(IMPRESSIONS) < 0.4,
                "device": [f"d{i}" for i in rng.integers(0, 3, IMPRESSIONS)],
            }
        ),
    }


@pytest.fixture
def settings() -> Ranker:
    return Ranker(
        embedding_size=4,
        topic_size=3,
        hidden=[8, 6],
        history_length=5,
        item_fields=["author_id", "tags"],
        context_fields=["device", "hour"],
        modalities=["audio", "cover"],
    )


@pytest.fixture
def data(raw, settings) -> RankingData:
    items = join_items(raw["catalog"], raw["topics"], raw["vectors"], list(settings.modalities))
    return prepare(raw["interactions"], items, raw["users"], settings, Split(validation=0.1, test=0.2))
