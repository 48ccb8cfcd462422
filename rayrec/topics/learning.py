"""The stage `topics`: catalog and features in, topics out.

    cover, title --MMoE--> z --+
                               +--> a = concat(L2(z), L2(e)) --K-means--> centres --threshold--> topics of each video
    tags --graph, skip-gram--> e --+

What a catalog lacks is left out: without covers z is the title's, without titles and covers `a` is the tags' alone, and a catalog
that has nothing of the kind gets no topics at all (recall is then popular and fresh videos).
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from rayrec import tables
from rayrec.config import Topics
from rayrec.topics import clustering, tag_graph
from rayrec.topics.mmoe import Contents, Labels, learn_representation
from rayrec.topics.text import hashed_titles
from rayrec.workspace import StageRun

COVER_SIZE = 80  # SOURCES A's for a picture; the encoder would learn a small catalog by heart from all of its numbers
TYPICAL_TAGS = 5  # kept for each topic

log = logging.getLogger(__name__)


def learn_topics(run: StageRun) -> None:
    """The work of the stage: writes topics, topic_centres, tag_vectors and embeddings."""
    catalog, features = run.read("catalog"), run.read_if_there("features")
    settings, seed = run.config.topics, run.config.seed
    videos_tags, names = tag_graph.incidence(catalog["tags"])
    vectors = tag_graph.tag_vectors(videos_tags, names, settings, seed) if names else np.empty((0, settings.tag_size), np.float32)
    contents = read_contents(catalog, features)
    parts = []
    if contents.cover is not None or contents.title_starts is not None:
        parts.append(learn_representation(contents, read_labels(catalog, videos_tags, settings), settings, seed))
    if names:
        parts.append(tag_graph.mean_tag_vectors(videos_tags, vectors))
    if not parts:
        log.warning("topics: no video has a cover, a title or tags, so there are no topics")
        _write(run, catalog["video_id"].slice(0, 0), np.empty((0, 1), np.float32), np.empty((0, 1), np.float32), videos_tags, names)
    else:
        joint = join(parts)
        described = joint.any(axis=1)  # a video of which nothing is known belongs to no topic
        joint, ids = joint[described], catalog["video_id"].filter(pa.array(described))
        _write(run, ids, joint, clustering.cluster(joint, settings.clusters, seed), videos_tags[described], names)
    run.write("tag_vectors", _tag_table(names, vectors, videos_tags))
    run.count(rows_in=catalog.num_rows, rows_out=run.written["topics"])


def join(parts: list[np.ndarray]) -> np.ndarray:
    """`a`: the parts L2-normalised, side by side, L2-normalised again, float32 [videos, size].

    Unlike the source we centre each part first. What all vectors of a part share would else make every cosine high: on the demo
    world each video was then within 0.6 of every topic.
    """
    centred = [part - part[part.any(axis=1)].mean(axis=0) * part.any(axis=1, keepdims=True) for part in parts]
    return normalize(np.concatenate([normalize(part) for part in centred], axis=1)).astype(np.float32)


def read_contents(catalog: pa.Table, features: pa.Table | None) -> Contents:
    """Covers and titles as the encoders want them, in the catalog's order."""
    cover = tokens = starts = None
    if features is not None and features["cover"].null_count < features.num_rows:
        rows = pc.index_in(catalog["video_id"].combine_chunks(), value_set=features["video_id"].combine_chunks())
        found = features["cover"].combine_chunks().take(rows)
        there = found.is_valid().to_numpy(zero_copy_only=False)
        vectors = np.stack(found.drop_null().to_numpy(zero_copy_only=False))
        reduced = PCA(min(COVER_SIZE, *vectors.shape)).fit_transform(vectors)
        rows_of_all = np.zeros((len(found), reduced.shape[1]), dtype=np.float32)
        rows_of_all[there] = reduced / max(reduced.std(), 1e-6)  # one scale for all: the small components stay small
        cover = torch.from_numpy(rows_of_all)
    if catalog["title"].null_count < catalog.num_rows:
        tokens, starts = (torch.from_numpy(part) for part in hashed_titles(catalog["title"].to_pylist()))
    return Contents(cover, tokens, starts)


def read_labels(catalog: pa.Table, videos_tags: sp.csr_matrix, settings: Topics) -> Labels:
    """Classes and tags as the tasks want them; classes that no video has are left out."""
    classes = {}
    for name in ("primary_class", "secondary_class"):
        numbers = catalog[name].combine_chunks().dictionary_encode()
        if len(numbers.dictionary) > 1:
            classes[name] = torch.from_numpy(numbers.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64))
    frequent = np.asarray(videos_tags.sum(axis=0)).ravel() >= settings.least_tag_videos
    tags = torch.from_numpy(videos_tags[:, frequent].toarray()) if frequent.any() else None
    return Labels(classes, tags)


def typical_tags(topics: list[np.ndarray], videos_tags: sp.csr_matrix, names: list[str], topic_count: int) -> list[list[str]]:
    """The tags that mark each topic, by class-based tf-idf: frequent in the topic and rare in the others (BERTopic, 2022)."""
    if not names:
        return [[] for _ in range(topic_count)]
    rows = np.concatenate(topics) if topics else np.empty(0, dtype=np.int64)
    columns = np.repeat(np.arange(len(topics)), [len(found) for found in topics])
    membership = sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(topic_count, len(topics)))
    counts = (membership @ videos_tags).toarray()
    idf = np.log1p(counts.sum() / topic_count / np.maximum(counts.sum(axis=0), 1))
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * idf
    best = np.argsort(-weights, axis=1, kind="stable")[:, :TYPICAL_TAGS]
    return [[names[tag] for tag in row if weights[topic, tag] > 0] for topic, row in enumerate(best)]


def _write(
    run: StageRun, ids: pa.ChunkedArray, joint: np.ndarray, centres: np.ndarray, videos_tags: sp.csr_matrix, names: list[str]
) -> None:
    settings = run.config.topics
    topics, similarities = clustering.assign(joint, centres, settings.threshold, settings.most_topics) if len(joint) else ([], [])
    alone = sum(
        len(found) == 1 and similarity[0] < settings.threshold for found, similarity in zip(topics, similarities, strict=True)
    )
    log.info("topics: %d of %d videos are near no centre and take the nearest", alone, len(topics))
    run.write("embeddings", pa.table({"video_id": ids, "vector": pa.array(list(joint), tables.VECTOR)}))
    run.write(
        "topics",
        pa.table({"video_id": ids, "topics": pa.array(topics, tables.IDS), "similarity": pa.array(similarities, tables.VECTOR)}),
    )
    sizes = np.bincount(np.concatenate(topics), minlength=len(centres)) if topics else np.zeros(0)
    run.write(
        "topic_centres",
        pa.table(
            {
                "topic": np.arange(len(sizes)),
                "centre": pa.array(list(centres[: len(sizes)]), tables.VECTOR),
                "videos": sizes,
                "tags": pa.array(typical_tags(topics, videos_tags, names, len(sizes)), pa.list_(pa.string())),
            }
        ),
    )


def _tag_table(names: list[str], vectors: np.ndarray, videos_tags: sp.csr_matrix) -> pa.Table:
    counts = np.asarray(videos_tags.sum(axis=0)).ravel().astype(np.int64)
    return pa.table({"tag": pa.array(names, pa.string()), "vector": pa.array(list(vectors), tables.VECTOR), "videos": counts})
