"""What it saves to freeze the items of a ranker: CPU time to score 600 candidates, and the memory that it takes.

    PYTHONPATH=. python benchmarks/frozen.py

A made-up catalog and log; each ranker is built and not trained, which makes no difference to its time. Frozen and not, the rankers
take turns, so that a busy moment slows all of them down.
"""

import argparse
import time

import numpy as np
import pyarrow as pa
import torch
from figures import median_of, show

from rayrec.config import Ranker, Split
from rayrec.data.loading import RankingData, prepare
from rayrec.ranking.scorer import Scorer

MODELS = ["wide_deep", "din", "deepfm", "emlp", "dcn", "mmie", "sdin"]


def world(videos: int, users: int) -> RankingData:
    """A log in which every user clicks, over a catalog with authors, topics and covers' vectors."""
    rng = np.random.default_rng(0)
    items = pa.table(
        {
            "video_id": [f"v{n}" for n in range(videos)],
            "author_id": [f"a{n % 500}" for n in range(videos)],
            "topics": pa.array(list(rng.integers(0, 100, (videos, 4)).astype(np.int32)), pa.list_(pa.int32())),
            "cover": pa.array(list(rng.normal(size=(videos, 80)).astype(np.float32)), pa.list_(pa.float32())),
        }
    )
    count = 2 * users
    log = pa.table(
        {
            "user_id": [f"u{n % users}" for n in range(count)],
            "video_id": [f"v{n}" for n in rng.integers(0, videos, count)],
            "shown_at": pa.array(np.arange(count, dtype=np.int64) * 60_000),
            "clicked": rng.random(count) < 0.5,
        }
    )
    return prepare(log, items, None, Ranker(modalities=["cover"]), Split())


def scoring(scorer: Scorer, requests: int, candidates: int, users: int) -> float:
    """Milliseconds of CPU time to score the candidates of so many requests together."""
    rng = np.random.default_rng(1)
    past = [rng.integers(1, len(scorer.item_ids), 50).astype(np.int32) for _ in range(requests)]
    times = [np.arange(50, dtype=np.int64)] * requests
    names = [f"u{n}" for n in rng.integers(0, users, requests)]
    asked = rng.integers(1, len(scorer.item_ids), (requests, candidates)).astype(np.int32)
    started = time.process_time()
    scorer.score(names, past, times, np.full(requests, 10**12), asked)
    return 1000 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--candidates", type=int, default=600)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8], help="that are scored together")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--runs", type=int, default=51)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = world(options.videos, options.users)
    rows = []
    for model in options.models:
        settings = Ranker.model_validate({"model": model, "modalities": ["cover"], "history_length": 50})
        embedding, frozen = (Scorer.untrained(settings, data) for _ in range(2))
        taken = frozen.freeze(float("inf"))
        for requests in options.requests:
            size = requests, options.candidates, options.users
            runs = [[scoring(scorer, *size) for scorer in (embedding, frozen)] for _ in range(options.runs)]
            before, after = (median_of(list(column)) for column in zip(*runs, strict=True))
            row = {"model": model, "requests": requests, "CPU ms": before, "frozen, CPU ms": after, "of before": after / before}
            rows.append(row | {"bytes a video": taken / (options.videos + 1)})
    show("frozen", rows, candidates=options.candidates, videos=options.videos, threads=options.threads)


if __name__ == "__main__":
    main()
