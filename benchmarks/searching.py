"""How long a search of the index takes: all vectors compared, or usearch's graph, and how many of the nearest the graph finds.

    python benchmarks/searching.py [--videos 480 100000 1000000] [--queries 200] [--exact]

The vectors are made up: unit vectors of 128 numbers around one centre for each 50 videos, as far from it as videos of a class are
from one another. A query is a vector near one of them. The index is that of the service, in its process and thread. The
words that are asked for as well are in a tenth and in a thousandth of the titles.
"""

import argparse
import time

import numpy as np
import pyarrow as pa
from figures import peak_gib, show

from rayrec.nearest import graph_of
from rayrec.retrieval.index import Filters, Index

SIZE, K, VIDEOS_PER_CENTRE, SPREAD = 128, 10, 50, 0.8
ALL, WORDS = Filters(), "often3 seldom33"


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [count, SIZE], of length SPREAD on average."""
    return rng.standard_normal((count, SIZE), dtype=np.float32) * np.float32(SPREAD / np.sqrt(SIZE))


def made_up(videos: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((max(1, videos // VIDEOS_PER_CENTRE), SIZE), dtype=np.float32))
    vectors = unit(centres[rng.integers(len(centres), size=videos)] + noise(rng, videos))
    return vectors, unit(vectors[rng.integers(videos, size=queries)] + noise(rng, queries))


def timed(index: Index, queries: np.ndarray, filters: Filters, text: str = "") -> tuple[list[list[str]], np.ndarray]:
    """What each query finds, by its vector and these words, and its milliseconds."""
    found, times = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(index.search(query, K, filters=filters, text=text)[0])
        times.append(1000 * (time.perf_counter() - started))
    return found, np.array(times)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--videos", type=int, nargs="+", default=[480, 100_000, 1_000_000])
    arguments.add_argument("--queries", type=int, default=200)
    arguments.add_argument("--exact", action="store_true", help="leave out the graph, whose making takes minutes at a million")
    given = arguments.parse_args()
    rows = []
    for videos in given.videos:
        vectors, queries = made_up(videos, given.queries)
        classes = [f"c{number % 10}" for number in range(videos)]
        titles = [f"often{number % 10} seldom{number % 1000}" for number in range(videos)]
        facts = pa.table({"video_id": [f"v{number}" for number in range(videos)], "primary_class": classes, "title": titles})
        started = time.perf_counter()
        graph = None if given.exact else graph_of(vectors)
        built = time.perf_counter() - started
        right: dict[str, list[list[str]]] = {}
        for how in ("exact",) if graph is None else ("exact", "usearch"):
            index = Index(facts, vectors, videos if how == "exact" else 0, None if how == "exact" else graph)
            for about, filters, text in (("all", ALL, ""), ("a tenth", Filters(class_="c3"), ""), ("all, words", ALL, WORDS)):
                timed(index, queries[:5], filters, text)
                found, times = timed(index, queries, filters, text)
                expected = right.setdefault(about, found)
                shared = [len({*one} & {*other}) / max(1, len(one)) for one, other in zip(expected, found, strict=True)]
                rows.append(
                    {
                        "videos": videos,
                        "way": how,
                        "about": about,
                        "p50 ms": float(np.median(times)),
                        "p95 ms": float(np.quantile(times, 0.95)),
                        f"recall@{K}": float(np.mean(shared)),
                        "seconds to build": built if how == "usearch" else 0.0,
                    }
                )
    show(f"{given.queries} searches for the {K} nearest, one after the other", rows, peak_gib=round(peak_gib(), 1))


if __name__ == "__main__":
    main()
