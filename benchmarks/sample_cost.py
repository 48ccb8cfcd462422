"""What the covers' vectors (128 numbers) and topics (8 numbers) add to the cost of one request: time and memory.

    python benchmarks/sample_cost.py [--videos N] [--candidates N] [--network NAME]

Pu et al. (see docs/papers.md) deliver a sample to a baseline, to one with the vector of a CNN on the cover and to one with topics,
and find that the CNN's vector adds about three times as much time and memory. Here a sample is a request for a page: recall from
the queues of topics, and `wide_deep` over the candidates, untrained, since weights make no difference to the cost. The videos are
made up and have four of 6,000 topics each.

The vector of a cover is in the table of items, as rayrec serves it. The last row adds what the text means: the network looks at the
cover of a new video when the request comes. Memory is that of the tables and weights of the ranker; that of the network is its
weights.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from figures import median_of, show
from torchvision import models

from rayrec.config import Ranker, Recall, Selection, Split
from rayrec.data.loading import prepare
from rayrec.ranking.gathering import Rows
from rayrec.ranking.scorer import Scorer
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import ItemData
from rayrec.recall.pipeline import RecallPipeline, Trace
from rayrec.recall.queues import NO_ITEMS, ItemTopics, TopicQueues
from rayrec.recall.source import Query

TOPICS, TOPICS_OF_A_VIDEO, COVER = 6_000, 4, 128
USERS, ROWS, CLICKS, K = 1_000, 20_000, 50, 10
BASELINE = "baseline"
ARMS: dict[str, dict[str, Any]] = {
    BASELINE: {"topics": False},
    "+ cover vector, 128 numbers": {"topics": False, "modalities": ["cover"]},
    "+ topics, 8 numbers": {"topics": True},
}


def tables(videos: int, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """The joined item table, and a log."""
    ids = [f"v{number}" for number in range(videos)]
    topics = np.sort(rng.integers(0, TOPICS, (videos, TOPICS_OF_A_VIDEO)), axis=1).astype(np.int32)
    vectors = rng.normal(size=(videos, COVER)).astype(np.float32)
    items = pa.table(
        {
            "video_id": ids,
            "author_id": [f"a{number}" for number in rng.integers(0, videos // 8 + 1, videos)],
            "primary_class": [f"c{number}" for number in rng.integers(0, 50, videos)],
            "topics": pa.array(list(topics), pa.list_(pa.int32())),
            "cover": pa.array(list(vectors), pa.list_(pa.float32())),
        }
    )
    log = {
        "user_id": [f"u{number}" for number in rng.integers(0, USERS, ROWS)],
        "video_id": [ids[number] for number in rng.integers(0, videos, ROWS)],
        "shown_at": 1_700_000_000_000 + np.arange(ROWS) * 1000,
        "clicked": rng.random(ROWS) < 0.3,
    }
    return items, pa.table(log)


def scorer_of(items: pa.Table, log: pa.Table, changes: dict[str, Any]) -> Scorer:
    ranker = Ranker(model="wide_deep", topic_size=8, **changes)
    used = items.select([name for name in items.column_names if name != "topics" or ranker.topics])
    return Scorer.untrained(ranker, prepare(log, used, None, ranker, Split(validation=0.1, test=0.1)))


def memory_mb(model: torch.nn.Module) -> float:
    """Of the weights, and of the tables that are looked up."""
    tensors = [*model.parameters()]
    for module in model.modules():
        if isinstance(module, Rows):
            tensors.append(module.first)  # type: ignore[arg-type]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def page_of(scorer: Scorer, items: pa.Table, candidates: int, rng: np.random.Generator) -> Callable[[], None]:
    """Makes a page for a user."""
    ids = scorer.item_ids
    item_topics = ItemTopics.of(ids, items.select(["video_id", "topics"]))
    data, settings = ItemData(item_topics, np.zeros(len(ids), np.int32)), Recall(candidates=candidates)
    exposures = rng.integers(20, 1000, len(ids))
    queues = TopicQueues.build(item_topics, exposures, exposures // 5, np.arange(len(ids)) > 0, settings, rng)
    pipeline = RecallPipeline(settings, Selection(), data)
    history = rng.integers(1, len(ids), CLICKS).astype(np.int32)
    times = 1_700_000_000_000 + np.arange(CLICKS)
    query = Query("u1", history, times, Exclusions.of(NO_ITEMS), 1)

    async def score(found: np.ndarray) -> np.ndarray:
        return scorer.score(["u1"], [history], [times], np.array([1_700_100_000_000]), found[None])[0]

    def page() -> None:
        asyncio.run(pipeline.run(query, queues, score, K, Trace()))

    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=600)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--network", default="resnet18", help="a classifier of torchvision")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    items, log = tables(options.videos, rng)
    scorers = {name: scorer_of(items, log, changes) for name, changes in ARMS.items()}
    pages = {name: page_of(scorer, items, options.candidates, np.random.default_rng(1)) for name, scorer in scorers.items()}
    memory = {name: memory_mb(scorer.model) for name, scorer in scorers.items()}
    network, cover = models.get_model(options.network, weights=None).eval(), torch.rand(1, 3, 224, 224)
    looked = f"+ {options.network} on one cover, and its vector"

    def with_network() -> None:
        with torch.inference_mode():
            network(cover)
        pages["+ cover vector, 128 numbers"]()

    pages[looked], memory[looked] = with_network, memory["+ cover vector, 128 numbers"] + memory_mb(network)
    milliseconds: dict[str, list[float]] = {name: [] for name in pages}
    for _ in range(options.runs):  # one after the other, so that all have the same machine
        for name, page in pages.items():
            page()
            count = options.requests if name != looked else max(1, options.requests // 10)
            began = time.process_time()
            for _ in range(count):
                page()
            milliseconds[name].append((time.process_time() - began) * 1000 / count)
    rows = [
        {
            "arm": name,
            "CPU ms a request": median_of(milliseconds[name]),
            "more than the baseline": median_of(milliseconds[name]) - median_of(milliseconds[BASELINE]),
            "MB": memory[name],
            "more MB": memory[name] - memory[BASELINE],
        }
        for name in pages
    ]
    show("the cost of a sample", rows, videos=options.videos, candidates=options.candidates, runs=options.runs)


if __name__ == "__main__":
    main()
