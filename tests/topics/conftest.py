"""A little catalog whose two kinds of videos can be told apart by picture and by title."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import Topics

SMALL = Topics(
    encoder_size=8, expert_size=8, experts=3, epochs=30, learning_rate=1e-2, batch_size=32, walks_per_tag=3, tag_size=8, clusters=4
)

WORDS = ("sea waves", "sun sand")


@dataclass(frozen=True)
class Little:
    catalog: pa.Table
    vectors: pa.Table
    kinds: np.ndarray  # int64 [videos], 0 to 3: two that the picture tells apart times two that the title does


def little_world(count: int = 160, seed: int = 0) -> Little:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, count)
    cover = rng.normal(size=(count, 6)).astype(np.float32)
    cover[:, 0] += 4 * (kinds % 2)
    ids = [f"v{seed}-{row}" for row in range(count)]
    catalog = tables.from_columns(
        "catalog",
        {
            "video_id": ids,
            "title": [
                f"{rng.choice(['a', 'b'])} {('sea waves', 'sun sand')[kind // 2]} {rng.choice(['c', 'd'])}" for kind in kinds
            ],
            "tags": [[f"tag{kind}", f"tag{kind}{rng.integers(3)}"] for kind in kinds],
            "primary_class": [str(kind) for kind in kinds],
        },
    )
    vectors = tables.from_columns("vectors", {"video_id": ids, "cover": list(cover)})
    return Little(catalog, vectors, kinds)


@pytest.fixture
def little() -> Little:
    return little_world()
