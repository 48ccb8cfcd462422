"""How long recall alone takes for a request, how long a refresh of the queues, and how much memory they need.

    python benchmarks/recall.py --videos 1000000 --topics 6000

Made-up videos have 1 to 5 topics, unevenly popular; a tenth is fresh. A request is all of recall, from a user's state to candidates
(source, filter, backfill). A refresh takes in the events of a second in which so many distinct videos were shown. Collaborative
sources are asked alone, each with 64 numbers or 50 neighbours of a video; usearch's graph, with `--graph`, for as many candidates.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from figures import median_of, peak_gib, show

from rayrec.config import Recall, Selection
from rayrec.config.recall import RecallSource
from rayrec.nearest import graph_of, restored
from rayrec.recall import sources
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import ItemData
from rayrec.recall.neighbours import Neighbours
from rayrec.recall.pipeline import RecallPipeline, Trace
from rayrec.recall.queues import NO_ITEMS, ItemTopics, TopicQueues
from rayrec.recall.similar import by_topics, by_vector, nearest
from rayrec.recall.source import Query, Source
from rayrec.recall.vectors import Vectors

SEEN, CLICKS = 2000, 128  # of a user who has been here for long
SIZE, NEIGHBOURS = 64, 50  # of a collaborative model


def world(videos: int, topics: int, rng: np.random.Generator) -> tuple[ItemTopics, np.ndarray, np.ndarray]:
    """The topics, exposures and clicks of each item, item 0 included."""
    lengths = rng.integers(1, 6, videos + 1)
    lengths[0] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    weights = np.cumsum(1 / np.arange(1, topics + 1) ** 0.5)
    drawn = rng.permutation(topics)[np.searchsorted(weights, rng.random(int(offsets[-1])) * weights[-1])]
    owner = np.repeat(np.arange(videos + 1), lengths)
    pairs = np.unique(owner * topics + drawn)  # a topic stands once
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs // topics, minlength=videos + 1))]).astype(np.int64)
    exposures = np.where(rng.random(videos + 1) < 0.1, rng.integers(0, 10, videos + 1), 10 + rng.pareto(1, videos + 1) * 20)
    exposures = exposures.clip(max=10**6).astype(np.int64)
    return ItemTopics(offsets, (pairs % topics).astype(np.int32)), exposures, rng.binomial(exposures, rng.beta(2, 12, videos + 1))


def made_up_users(
    item_topics: ItemTopics, queues: TopicQueues, count: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The clicks and the seen videos of users with four favourite topics each, who have seen the best of them."""
    found = []
    for _ in range(count):
        favourites = rng.choice(np.unique(item_topics.topics), 4, replace=False)
        best = np.concatenate([queues.queue(int(topic), SEEN // 4, int(rng.integers(99))) for topic in favourites])
        found.append(
            (rng.choice(best, CLICKS), np.append(best, rng.integers(1, len(queues.kind), SEEN - len(best))).astype(np.int32))
        )
    return found


def row(case: str, count: int, work: Callable[[int], Any]) -> dict[str, Any]:
    times = []
    for number in range(count):
        started = time.perf_counter()
        work(number)
        times.append((time.perf_counter() - started) * 1000)
    return {"case": case, "runs": count, "median ms": median_of(times), "p99 ms": float(np.quantile(times, 0.99))}


def collaborative_rows(
    people: list[tuple[np.ndarray, np.ndarray]],
    items: ItemData,
    queues: TopicQueues,
    requests: int,
    with_graph: bool,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The sources of a collaborative model. The vectors have 32 centres, as tastes have, and are of uneven lengths."""
    count = len(items.author_of)
    centres = rng.normal(size=(32, SIZE)).astype(np.float32)
    vectors = (centres[rng.integers(32, size=count)] + 0.7 * rng.normal(size=(count, SIZE))).astype(np.float32)
    vectors *= rng.gamma(2, 0.5, size=(count, 1)).astype(np.float32)
    vectors[0] = 0
    neighbours = Neighbours(
        rng.integers(1, count, (count, NEIGHBOURS), dtype=np.int32), rng.random((count, NEIGHBOURS), dtype=np.float32)
    )
    items = replace(items, neighbours=neighbours, vectors=Vectors(vectors, vectors))

    def built(items: ItemData, name: str) -> Source:
        return sources.build(Recall(sources={name: RecallSource()}), items)[0][0]

    def candidates(source: Source, number: int) -> np.ndarray:
        history, seen = people[number % len(people)]
        query = Query("", history, np.zeros(len(history), np.int64), Exclusions.of(seen), number)
        return source.candidates(query, queues, source.settings.candidates).items

    similar, exact = built(items, "item_neighbours"), built(items, "user_vector")
    rows = [
        row("item_neighbours, 128 clicks", requests, lambda n: candidates(similar, n)),
        row("user_vector, all compared", requests, lambda n: candidates(exact, n)),
    ]
    if with_graph:
        graphed = built(replace(items, vectors=Vectors(vectors, vectors, graph=restored(graph_of(vectors)))), "user_vector")
        rows.append(row("user_vector, usearch", requests, lambda n: candidates(graphed, n)))
        found = [np.isin(candidates(exact, n), candidates(graphed, n)).mean() for n in range(len(people))]
        rows[-1]["case"] += f", {np.mean(found):.1%} of the exact"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--topics", type=int, default=6_000)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--refreshes", type=int, default=20)
    parser.add_argument("--graph", action="store_true")
    options = parser.parse_args()
    rng, settings = np.random.default_rng(0), Recall()
    item_topics, exposures, clicks = world(options.videos, options.topics, rng)
    available, authors = (
        np.arange(options.videos + 1) > 0,
        rng.integers(1, options.videos // 20 + 2, options.videos + 1).astype(np.int32),
    )

    def build(_: int) -> None:
        nonlocal queues
        queues = TopicQueues.build(item_topics, exposures, clicks, available, settings, rng)

    queues: TopicQueues
    built = row("build", 1, build)
    arrays = [queues.kind, queues.ctr, queues.popular, queues.popular_interleaved, queues.fresh]
    arrays += [*queues.established_by_topic, *queues.fresh_by_topic]
    people = made_up_users(item_topics, queues, 100, rng)
    draw_seeds = rng.integers(2**31, size=options.requests).tolist()
    pipeline = RecallPipeline(settings, Selection(), ItemData(item_topics, authors))

    def ask(number: int, history: np.ndarray, seen: np.ndarray, blocked: np.ndarray = NO_ITEMS) -> None:
        exclusions = Exclusions.of(seen, blocked, authors)
        query = Query("", history, np.zeros(len(history), np.int64), exclusions, draw_seeds[number])
        assert len(pipeline.candidates(query, queues, settings.candidates, Trace())) == settings.candidates

    rows = [
        built,
        row("request, a new user", options.requests, lambda n: ask(n, NO_ITEMS, NO_ITEMS)),
        row("request, 128 clicks", options.requests, lambda n: ask(n, people[n % 100][0], NO_ITEMS)),
        row("request, 128 clicks, 2000 seen", options.requests, lambda n: ask(n, *people[n % 100])),
        row("and 100 authors blocked", options.requests, lambda n: ask(n, *people[n % 100], authors[1:101])),
    ]
    for shown in (100, 1000, 3000):
        changes = [np.unique(rng.integers(1, options.videos + 1, shown)).astype(np.int32) for _ in range(options.refreshes)]

        def refreshed(number: int, changes: list[np.ndarray] = changes) -> None:
            nonlocal queues
            changed = changes[number]
            exposures[changed] += 1
            clicks[changed] += changed % 10 == 0
            queues = queues.updated(changed, exposures, clicks, available)

        rows.append(row(f"refresh, {shown} videos shown", options.refreshes, refreshed))
    data = ItemData(item_topics, authors)
    rows += collaborative_rows(people, data, queues, options.requests // 10, options.graph, np.random.default_rng(1))
    vectors = rng.normal(size=(options.videos, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows.append(row("similar, 64 numbers", 10, lambda n: nearest(*by_vector(vectors, n + 1), clicks, 20)))
    rows.append(row("similar, shared topics", 10, lambda n: nearest(*by_topics(item_topics, n + 1), clicks, 20)))
    show(
        "recall",
        rows,
        videos=options.videos,
        topics=len(queues.established_by_topic),
        places_in_queues=len(item_topics.topics),
        queues_mib=round(sum(array.nbytes for array in arrays) / 2**20),
        topics_and_counters_mib=round(sum(a.nbytes for a in (item_topics.offsets, item_topics.topics, exposures, clicks)) / 2**20),
        peak_gib=round(peak_gib(), 2),
    )


if __name__ == "__main__":
    main()
