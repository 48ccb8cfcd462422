"""What user kernels cost: the time to score 600 candidates beside `wide_deep` alone, and the memory of maps and kernels.

    PYTHONPATH=. python benchmarks/user_kernels.py

A made-up catalog and log; each ranker is built and not trained, which makes no difference to its time. The rankers take turns, so
that a busy moment slows all of them down.
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
from rayrec.tables import MAPS, MAPS_SHAPE, MapShape

MB = 1e6
KERNELS = {"resnet (7, 3, 3, 3, 3)": (7, 3, 3, 3, 3), "efficientnet_lite0 (3, 3, 5, 5, 3)": (3, 3, 5, 5, 3)}


def world(options: argparse.Namespace, shape: MapShape) -> RankingData:
    """A log in which every user clicks, over a catalog with topics, covers' vectors and maps."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(options.videos, shape.size)).astype(np.float32)
    offsets = pa.array(np.arange(options.videos + 1, dtype=np.int32) * shape.size)
    items = pa.table(
        {
            "video_id": [f"v{n}" for n in range(options.videos)],
            "author_id": [f"a{n % 500}" for n in range(options.videos)],
            "topics": pa.array(list(rng.integers(0, 100, (options.videos, 4)).astype(np.int32)), pa.list_(pa.int32())),
            "cover": pa.array(list(rng.normal(size=(options.videos, 80)).astype(np.float32)), pa.list_(pa.float32())),
            MAPS: pa.ListArray.from_arrays(offsets, pa.array(maps.ravel())),
            MAPS_SHAPE: [shape.to_json()] * options.videos,
        }
    )
    count = 2 * options.users
    log = pa.table(
        {
            "user_id": [f"u{n % options.users}" for n in range(count)],
            "video_id": [f"v{n}" for n in rng.integers(0, options.videos, count)],
            "shown_at": pa.array(np.arange(count, dtype=np.int64) * 60_000),
            "clicked": rng.random(count) < 0.5,
        }
    )
    return prepare(log, items, None, Ranker(modalities=["cover"], user_kernels=True), Split())


def scoring(scorer: Scorer, requests: int, candidates: np.ndarray, users: int) -> float:
    """Milliseconds of CPU time to score the candidates of so many requests together: a busy machine makes little difference."""
    rng = np.random.default_rng(1)
    past = [rng.integers(1, len(scorer.item_ids), 50).astype(np.int32) for _ in range(requests)]
    times = [np.arange(50, dtype=np.int64)] * requests
    names = [f"u{n}" for n in rng.integers(0, users, requests)]
    started = time.process_time()
    scorer.score(names, past, times, np.full(requests, 10**12), candidates)
    return 1000 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=600)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8], help="that are scored together")
    parser.add_argument("--runs", type=int, default=51)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--grid", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = Ranker(modalities=["cover"])
    rows = []
    for network, kernels in KERNELS.items():
        data = world(options, MapShape(options.channels, options.grid, kernels, 0.875))
        arms = {
            "wide_deep": base,
            "wide_deep + kernels": base.model_copy(update={"user_kernels": True}),
            "user_kernel": base.model_copy(update={"model": "user_kernel"}),
        }
        scorers = {name: Scorer.untrained(settings, data) for name, settings in arms.items()}
        for requests in options.requests:
            found: dict[str, list[float]] = {name: [] for name in scorers}
            rng = np.random.default_rng(2)
            for _ in range(options.runs):
                candidates = rng.integers(1, options.videos, (requests, options.candidates)).astype(np.int32)
                for name, scorer in scorers.items():
                    found[name].append(scoring(scorer, requests, candidates, options.users))
            for name, runs in found.items():
                kernels_of = scorers[name].model.user_kernels
                maps = 0 if kernels_of is None else kernels_of.maps.first.nbytes
                own = 0 if kernels_of is None else kernels_of.own.weight.nbytes
                rows.append(
                    {
                        "network": network,
                        "requests": requests,
                        "ranker": name,
                        "CPU ms": median_of(runs[1:]),
                        "maps MB": maps / MB,
                        "bytes a video": maps // (options.videos + 1),
                        "users MB": own / MB,
                        "bytes a user": own // (options.users + 1),
                    }
                )
    show("User kernels", rows, **vars(options))


if __name__ == "__main__":
    main()
