"""Topics from vectors: K-means, and for each video every topic whose centre is near enough (Pu et al., "Multimodal Topic Learning
for Video Recommendation").

K-means (Lloyd's iterations after a k-means|| start) is written once, as passes over blocks of vectors. The function
`map_blocks(work, *arguments)` makes a pass: it yields `work(block, *arguments)` for every block, always in the same order. Here it
uses threads; `stages/on_ray/clustering.py` has one that uses Ray tasks. The result for a block is small. Shapes: N vectors of a
block, D numbers each, K centres.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import kmeans_plusplus
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

MAX_ITERATIONS = 50
MIN_GAIN = 1e-4  # the iterations stop when the inertia falls by a smaller share than this
ROUNDS = 3  # of the start; each round draws as many candidates as there will be centres
START_VECTORS = 32  # per centre: the start looks at about this many vectors, evenly spread, instead of all
FEW_VECTORS = 10_000  # up to this number, all vectors are candidates
STARTS, CHEAP = 4, 10_000_000  # with at most CHEAP pairs of vector and centre, K-means runs STARTS times and the best run is kept
CHUNK = 1 << 20  # pairs of vector and centre that are multiplied at a time, so that they stay in the processor's cache
BLOCK = 1 << 14  # vectors that one thread sums at a time

# `map_blocks(work, *arguments)`, see above.
BlockMap = Callable[..., Iterable[Any]]


class Partial(NamedTuple):
    """What some vectors add to an iteration: for each centre, the sum, number and squared distances of those nearest to it."""

    sums: np.ndarray  # [K, D]
    counts: np.ndarray  # [K]
    inertia: np.ndarray  # [K]


def cluster(vectors: np.ndarray, clusters: int, seed: int, max_iterations: int = MAX_ITERATIONS) -> np.ndarray:
    """K-means centres, L2-normalised [topics, size]; fewer than `clusters` when there are fewer distinct vectors."""
    with in_threads(vectors) as map_blocks:
        return k_means(map_blocks, clusters, seed, max_iterations)


def k_means(map_blocks: BlockMap, clusters: int, seed: int, max_iterations: int) -> np.ndarray:
    """The centres of the best of one or several runs, L2-normalised float32 [topics, D]."""
    size = sum(map_blocks(len))
    starts = STARTS if size * clusters <= CHEAP else 1
    runs = [lloyd(map_blocks, start(map_blocks, size, clusters, [seed, run]), max_iterations) for run in range(starts)]
    return normalize(min(runs, key=lambda run: run[1])[0]).astype(np.float32)


@contextmanager
def in_threads(vectors: np.ndarray) -> Iterator[BlockMap]:
    """A `map_blocks` that works on blocks of the vectors in as many threads as there are cores.

    Each thread multiplies alone, because the threads of a BLAS wait for one another after every chunk, which is slow on a busy
    machine.
    """
    blocks = [vectors[first : first + BLOCK] for first in range(0, len(vectors), BLOCK)]
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield lambda work, *arguments: pool.map(lambda block: work(block, *arguments), blocks)


# --- iterations -----------------------------------------------------------------------------------------------------------------


def lloyd(map_blocks: BlockMap, centres: np.ndarray, max_iterations: int, min_gain: float = MIN_GAIN) -> tuple[np.ndarray, float]:
    """The centres after the last iteration, and the inertia (sum of squared distances) that it began with."""
    before = np.inf
    for _ in range(max_iterations):
        merged = merge(map_blocks(partial, centres))
        inertia = float(merged.inertia.sum())
        centres = moved(merged)
        if before - inertia <= min_gain * inertia and merged.counts.all():
            break
        before = inertia
    return centres, inertia


def nearest(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the centre nearest to each vector, and the squared distance to it (0 where it is lost in rounding)."""
    labels, products = np.empty(len(vectors), dtype=np.intp), np.empty(len(vectors), dtype=np.float32)
    half_squares = np.einsum("kd,kd->k", centres, centres) / 2
    rows = max(1, CHUNK // len(centres))
    buffer = np.empty((min(rows, len(vectors)), len(centres)), dtype=np.float32)
    for first in range(0, len(vectors), rows):
        chunk = slice(first, min(first + rows, len(vectors)))
        scores = np.matmul(vectors[chunk], centres.T, out=buffer[: chunk.stop - first])
        scores -= half_squares
        scores.argmax(axis=1, out=labels[chunk])
        products[chunk] = np.take_along_axis(scores, labels[chunk, None], axis=1)[:, 0]
    squares = np.einsum("nd,nd->n", vectors, vectors)
    distances = squares - 2 * products
    distances[distances < 1e-6 * squares] = 0
    return labels, distances


def partial(vectors: np.ndarray, centres: np.ndarray) -> Partial:
    """The part of an iteration that these vectors add."""
    if len(vectors) > BLOCK:  # single precision is enough for sums of BLOCK vectors, but not of many more
        return merge(partial(vectors[first : first + BLOCK], centres) for first in range(0, len(vectors), BLOCK))
    labels, distances = nearest(vectors, centres)
    size, count = len(vectors), len(centres)
    membership = sp.csr_matrix((np.ones(size, dtype=np.float32), (labels, np.arange(size))), shape=(count, size))
    return Partial(membership @ vectors, np.bincount(labels, minlength=count), np.bincount(labels, distances, minlength=count))


def merge(partials: Iterable[Partial]) -> Partial:
    """The sum of the partials, in double precision. One of them is in memory at a time."""
    parts = iter(partials)
    sums, counts, inertia = next(parts)
    sums = sums.astype(np.float64)
    for part in parts:
        sums += part.sums
        counts = counts + part.counts
        inertia = inertia + part.inertia
    return Partial(sums, counts, inertia)


def moved(merged: Partial) -> np.ndarray:
    """The centres of the next iteration, float32.

    An empty cluster gets half of one of the clusters with the largest squared distances. It is removed if none is left to split.
    """
    centres = merged.sums / np.maximum(merged.counts, 1)[:, None]
    empty = np.flatnonzero(merged.counts == 0)
    widest = np.argsort(-merged.inertia, kind="stable")[: len(empty)]
    widest = widest[merged.inertia[widest] > 0]
    # The halves start a small step to either side of the old centre, along a direction in which vectors are unlikely to vary.
    spread = np.sqrt(merged.inertia[widest] / merged.counts[widest] / centres.shape[1])
    step = 0.01 * spread[:, None] * np.where(np.arange(centres.shape[1]) % 2, -1, 1)
    centres[empty[: len(widest)]] = centres[widest] + step
    centres[widest] -= step
    return np.delete(centres, empty[len(widest) :], axis=0).astype(np.float32)


# --- start ----------------------------------------------------------------------------------------------------------------------


def start(map_blocks: BlockMap, size: int, clusters: int, seed: list[int]) -> np.ndarray:
    """The centres before the first iteration: k-means|| (Bahmani et al., 2012), then k-means++ on its candidates.

    Each round draws K vectors: the first evenly, the others in proportion to their squared distance from the vectors drawn before.
    The weight of a candidate is the number of vectors nearest to it. All vectors of a small set are candidates.
    """
    stride = max(1, size // (START_VECTORS * clusters))
    if size <= max(FEW_VECTORS, ROUNDS * clusters):
        candidates = _drawn(map_blocks(draw, None, 1, size, [*seed, 0]), size)
    else:
        candidates = _drawn(map_blocks(draw, None, stride, clusters, [*seed, 0]), clusters)
        for turn in range(1, ROUNDS):
            more = _drawn(map_blocks(draw, candidates, stride, clusters, [*seed, turn]), clusters)
            candidates = np.concatenate([candidates, more])
    candidates = np.unique(candidates, axis=0)
    weights = sum(map_blocks(_weights, candidates, stride))
    state = int(np.random.default_rng(seed).integers(2**31))
    return kmeans_plusplus(candidates, min(clusters, len(candidates)), sample_weight=weights, random_state=state)[0]


def draw(
    vectors: np.ndarray, centres: np.ndarray | None, stride: int, count: int, seed: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """`count` keys and vectors, drawn from every `stride`-th vector in proportion to the squared distance from the nearest centre.

    The draw is without repeats. The vectors with the smallest keys of all blocks are such a draw from all vectors (Efraimidis &
    Spirakis, 2006).
    """
    some = vectors[::stride]
    weights = np.ones(len(some)) if centres is None else nearest(some, centres)[1].astype(np.float64)
    block = zlib.crc32(some[:1].tobytes())  # so that blocks do not all draw the same numbers
    keys = np.random.default_rng([*seed, block]).exponential(size=len(some)) / np.maximum(weights, 1e-300)
    smallest = np.argsort(keys, kind="stable")[:count]
    smallest = smallest[weights[smallest] > 0]
    return keys[smallest], some[smallest]


def _drawn(draws: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    keys, vectors = (np.concatenate(parts) for parts in zip(*draws, strict=True))
    return vectors[np.argsort(keys, kind="stable")[:count]]


def _weights(vectors: np.ndarray, candidates: np.ndarray, stride: int) -> np.ndarray:
    return np.bincount(nearest(vectors[::stride], candidates)[0], minlength=len(candidates))


# --- twins ----------------------------------------------------------------------------------------------------------------------


def without_twins(map_blocks: BlockMap, centres: np.ndarray, similarity: float) -> np.ndarray:
    """The centres [topics, D], L2-normalised, of which no two have a cosine similarity of `similarity` or more.

    K-means splits a large group of similar vectors among several centres. Pairs of which each is the other's nearest become their
    mean, weighted by their vectors, until no two centres are so near.
    """
    counts, centres = merge(map_blocks(partial, centres)).counts.astype(np.float32), centres.copy()
    while True:
        cosines, rows = centres @ centres.T, np.arange(len(centres))
        cosines = np.maximum(cosines, cosines.T)  # rounding may differ
        np.fill_diagonal(cosines, -1)
        closest = cosines.argmax(axis=1)
        ones = np.flatnonzero((closest[closest] == rows) & (rows < closest) & (cosines[rows, closest] >= similarity))
        if not len(ones):
            return centres
        others = closest[ones]
        centres[ones] = normalize(centres[ones] * counts[ones, None] + centres[others] * counts[others, None])
        counts[ones] += counts[others]
        centres, counts = np.delete(centres, others, axis=0), np.delete(counts, others)


# --- assignment -----------------------------------------------------------------------------------------------------------------


def assign(
    vectors: np.ndarray, centres: np.ndarray, threshold: float, max_topics: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The topics of each L2-normalised vector, the most similar first, and their cosine similarities.

    These are the centres with a similarity of at least `threshold`, at most `max_topics` of them, or else the nearest centre alone.
    """
    with in_threads(vectors) as map_blocks:
        parts = list(map_blocks(_assigned, centres, threshold, min(max_topics, len(centres))))
    topics, similarities, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
    ends = np.cumsum(counts)[:-1]
    return np.split(topics, ends), np.split(similarities, ends)


def _assigned(vectors: np.ndarray, centres: np.ndarray, threshold: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The topics and similarities of all vectors, concatenated, and the number of topics of each."""
    topics, similarities, counts = [], [], []
    rows = max(1, CHUNK // len(centres))
    for first in range(0, len(vectors), rows):
        similarity = vectors[first : first + rows] @ centres.T
        best = np.sort(np.argpartition(similarity, -count, axis=1)[:, -count:], axis=1)  # of equal centres the first is first
        values = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
        kept = values >= threshold
        kept[:, 0] = True
        topics.append(best[kept].astype(np.int32))
        similarities.append(values[kept])
        counts.append(kept.sum(axis=1))
    return np.concatenate(topics), np.concatenate(similarities), np.concatenate(counts)
