"""How long the vectors of 12,000 tags take, how much memory, and whether a tag's neighbours share its topic.

    python benchmarks/tag_graph.py --videos 300000

Each made-up video has a topic (topics are unevenly popular) and 4 to 8 tags: of its topic, and now and then of all tags.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from figures import peak_gib, show

from rayrec.config import Topics
from rayrec.topics import tag_graph

TAGS_OF_A_TOPIC = 40
STRAY = 0.2  # share of tags that have nothing to do with the video's topic


def zipf(count: int, size: int | tuple[int, ...], rng: np.random.Generator, exponent: float = 1.0) -> np.ndarray:
    """Numbers below `count`, number i in proportion to 1 / (i + 1)**exponent."""
    weights = np.cumsum(1 / np.arange(1, count + 1) ** exponent)
    return np.searchsorted(weights, rng.random(size) * weights[-1], side="right")


def synthetic_tags(videos: int, tags: int, rng: np.random.Generator) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The tags of each video, and the topic of each tag. All tags are on some video."""
    topics = tags // TAGS_OF_A_TOPIC
    counts = rng.integers(4, 9, videos)
    topic = np.repeat(rng.permutation(topics)[zipf(topics, videos, rng, 0.7)], counts)
    own = topic * TAGS_OF_A_TOPIC + zipf(TAGS_OF_A_TOPIC, len(topic), rng)
    stray = rng.permutation(tags)[zipf(tags, len(topic), rng)]
    chosen = np.where(rng.random(len(topic)) < STRAY, stray, own)
    chosen[rng.choice(len(chosen), tags, replace=False)] = np.arange(tags)
    words = pa.array([f"tag{tag:05}" for tag in range(tags)]).take(pa.array(chosen))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(offsets), words)]), np.arange(tags) // TAGS_OF_A_TOPIC


def precision_at_10(vectors: np.ndarray, topic: np.ndarray) -> float:
    """The share of each tag's ten nearest (cosine) that have its topic."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = 0
    for start in range(0, len(unit), 1000):
        near = unit[start : start + 1000] @ unit.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
        hits += int((topic[np.argpartition(-near, 10, axis=1)[:, :10]] == topic[start : start + len(near), None]).sum())
    return hits / (10 * len(unit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=300_000)
    parser.add_argument("--tags", type=int, default=12_000)
    parser.add_argument("--walks", type=int, default=Topics().walks_per_tag, help="from each tag")
    parser.add_argument("--length", type=int, default=Topics().walk_length)
    parser.add_argument("--epochs", type=int, default=Topics().skip_gram_epochs)
    options = parser.parse_args()
    settings = Topics(walks_per_tag=options.walks, walk_length=options.length, skip_gram_epochs=options.epochs)
    rng = np.random.default_rng(0)
    tags, topic = synthetic_tags(options.videos, options.tags, rng)
    rows: list[dict[str, Any]] = [{"step": "before", "seconds": 0.0, "peak GiB": peak_gib()}]

    def timed(step: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        rows.append({"step": step, "seconds": time.perf_counter() - started, "peak GiB": peak_gib()})
        return result

    matrix, names = timed("incidence", lambda: tag_graph.incidence(tags, options.tags))
    graph = timed("graph", lambda: tag_graph.tag_graph(matrix))
    starts = np.tile(np.arange(len(names)), options.walks)
    walks = timed("walks", lambda: tag_graph.random_walks(graph, starts, options.length, rng))
    vectors = timed("skip-gram", lambda: tag_graph.skip_gram(walks, len(names), settings, seed=0))
    show(
        "tag vectors",
        rows,
        videos=options.videos,
        tags=len(names),
        edges=graph.nnz // 2,
        walks_per_tag=options.walks,
        walk_length=options.length,
        epochs=options.epochs,
        precision_at_10=round(precision_at_10(vectors, topic), 4),
    )


if __name__ == "__main__":
    main()
