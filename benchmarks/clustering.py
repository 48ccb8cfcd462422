"""K-means of 200,000 vectors of 128 numbers into 2,000 topics: ours in threads, ours on Ray, faiss and scikit-learn, in one run.

    pip install faiss-cpu
    python benchmarks/clustering.py

First the iterations alone, all from the same vectors as centres; then each in its own way from start to end, which is what a user
waits for.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import ray
from figures import median_of, show
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from rayrec.stages.on_ray import clustering as on_ray
from rayrec.topics import clustering

NOISE = 1.0  # of the standard deviation of the mixture's middles


def mixture(vectors: int, size: int, groups: int) -> np.ndarray:
    """L2-normalised vectors around unevenly popular middles, float32."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, groups + 1) ** 0.5
    group = rng.choice(groups, vectors, p=weights / weights.sum())
    middles = rng.normal(size=(groups, size)).astype(np.float32)
    return normalize(middles[group] + NOISE * rng.standard_normal((vectors, size), dtype=np.float32))


def inertia_of(vectors: np.ndarray, centres: np.ndarray) -> float:
    """After one more mean of each cluster: L2-normalised centres compare with plain ones."""
    with clustering.in_threads(vectors) as each:
        moved = clustering.moved(clustering.merge(each(clustering.partial, centres)))
        return float(clustering.merge(each(clustering.partial, moved)).inertia.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=2_000)
    parser.add_argument("--iterations", type=int, default=10, help="of the first comparison")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    vectors = mixture(options.vectors, options.size, options.clusters)
    first = vectors[np.random.default_rng(1).choice(len(vectors), options.clusters, replace=False)]
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    over_blocks = on_ray.over_blocks([ray.put(part) for part in np.array_split(vectors, 4 * cores)])
    clustering.k_means(over_blocks, 2, 0, 1)  # starts the workers

    def iterate(each: clustering.BlockMap) -> np.ndarray:
        return clustering.lloyd(each, first, options.iterations, min_gain=-np.inf)[0]

    def in_threads() -> np.ndarray:
        with clustering.in_threads(vectors) as each:
            return iterate(each)

    def by_faiss(iterations: int, **start: np.ndarray) -> np.ndarray:
        means = faiss.Kmeans(options.size, options.clusters, niter=iterations, seed=1, max_points_per_centroid=len(vectors))
        means.train(vectors, **start)
        return np.asarray(means.centroids)

    def by_scikit() -> np.ndarray:
        with warnings.catch_warnings(action="ignore"):  # that it has not converged
            return KMeans(options.clusters, init=first, n_init=1, max_iter=options.iterations, tol=0).fit(vectors).cluster_centers_

    contests: dict[str, dict[str, Callable[[], np.ndarray]]] = {
        f"{options.iterations} iterations": {
            "faiss": lambda: by_faiss(options.iterations, init_centroids=first),
            "ours, threads": in_threads,
            "ours, Ray": lambda: iterate(over_blocks),
            "scikit-learn": by_scikit,
        },
        "start to end": {
            "faiss (25 iterations)": lambda: by_faiss(25),
            "ours, threads": lambda: clustering.cluster(vectors, options.clusters, 0),
            "ours, Ray": lambda: clustering.k_means(over_blocks, options.clusters, 0, clustering.MAX_ITERATIONS),
        },
    }
    rows: list[dict[str, Any]] = []
    for contest, entrants in contests.items():
        rows += compare(contest, entrants, vectors, options.runs)
    ray.shutdown()
    show("K-means", rows, vectors=len(vectors), size=options.size, clusters=options.clusters, faiss=faiss.__version__)


def compare(contest: str, entrants: dict[str, Callable[[], np.ndarray]], vectors: np.ndarray, runs: int) -> list[dict[str, Any]]:
    """Every entrant once a run, in turn, so that whatever else the machine does meets all; ratios are to the first, run by run."""
    seconds: dict[str, list[float]] = {name: [] for name in entrants}
    inertia = dict.fromkeys(entrants, 0.0)
    for _ in range(runs):
        for name, work in entrants.items():
            started = time.perf_counter()
            centres = work()
            seconds[name].append(time.perf_counter() - started)
            inertia[name] = inertia_of(vectors, centres)
            print(f"{contest}, {name}: {seconds[name][-1]:.2f} s", file=sys.stderr)
    bar = seconds[next(iter(entrants))]
    return [
        {
            "contest": contest,
            "by": name,
            "seconds": median_of(took),
            "to faiss": median_of([own / other for own, other in zip(took, bar, strict=True)]),
            "inertia": inertia[name],
        }
        for name, took in seconds.items()
    ]


if __name__ == "__main__":
    main()
