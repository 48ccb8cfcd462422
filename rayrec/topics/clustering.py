"""From vectors to topics: K-means, and every topic whose centre is near enough (SOURCES C.3)."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """L2-normalised K-means centres [topics, size]; fewer than `clusters` when there are fewer distinct vectors."""
    clusters = min(clusters, len(np.unique(vectors, axis=0)))
    return normalize(KMeans(clusters, n_init=4, random_state=seed).fit(vectors).cluster_centers_).astype(np.float32)


def assign(vectors: np.ndarray, centres: np.ndarray, threshold: float, most: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each L2-normalised vector its topics (most similar first) and their cosine similarities.

    Those are all centres with a similarity of at least `threshold`, `most` at the most, or else the nearest one alone.
    """
    topics, similarities = [], []
    for block in np.array_split(vectors, max(1, len(vectors) * len(centres) // 10_000_000)):
        similarity = block @ centres.T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :most]
        for row, best in zip(similarity, order, strict=True):
            kept = best[row[best] >= threshold] if row[best[0]] >= threshold else best[:1]
            topics.append(kept.astype(np.int32))
            similarities.append(row[kept].astype(np.float32))
    return topics, similarities
