"""What marks a topic: words and tags that are frequent in it and rare in the others (class-based tf-idf; BERTopic, 2022)."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer

# Scripts without spaces (Han, kana) and emoji count letter by letter; elsewhere a word has two letters at least.
SINGLE = r"\u3040-\u30ff\u3400-\u9fff\U0001f300-\U0001faff"
FEW = 10  # titles; a word of no more than these may be in all of them
WORD = rf"[{SINGLE}]|[^\W{SINGLE}][^\W{SINGLE}]+"


def membership(topics: Sequence[np.ndarray], count: int, weights: Sequence[np.ndarray] | None = None) -> sp.csr_matrix:
    """Which topic has which video, float32 [topics, videos]: ones, or the given weights (a row for each row of `topics`)."""
    rows = np.concatenate(topics) if len(topics) else np.empty(0, dtype=np.int64)
    columns = np.repeat(np.arange(len(topics)), [len(found) for found in topics])
    values = np.ones(len(rows), dtype=np.float32) if weights is None or not len(rows) else np.concatenate(weights)
    return sp.csr_matrix((values, (rows, columns)), shape=(count, len(topics)))


def title_words(titles: list[str | None]) -> tuple[sp.csr_matrix, list[str]]:
    """Counts of the titles' words, [videos, words], and the words. A word stands in two titles at least, and not in every tenth."""
    counter = CountVectorizer(min_df=2, max_df=max(FEW, len(titles) // 10), token_pattern=WORD)
    try:
        counts = counter.fit_transform(title or "" for title in titles)
    except ValueError:  # scikit-learn's answer to titles without any such word
        return sp.csr_matrix((len(titles), 0), dtype=np.float32), []
    return counts.astype(np.float32), counter.get_feature_names_out().tolist()


def typical(members: sp.csr_matrix, counts: sp.csr_matrix, names: list[str], most: int) -> list[list[str]]:
    """The `most` typical words of each topic, the best first. `counts` [videos, words] says how often a video has a word."""
    if not names:
        return [[] for _ in range(members.shape[0])]
    found = (members @ counts).tocsr()
    everywhere = np.asarray(found.sum(axis=0)).ravel()
    idf = np.log1p(found.sum() / members.shape[0] / np.maximum(everywhere, 1))
    best = []
    for topic in range(members.shape[0]):
        words = slice(found.indptr[topic], found.indptr[topic + 1])
        weights = found.data[words] * idf[found.indices[words]]
        order = np.argsort(-weights, kind="stable")[:most]
        best.append([names[word] for word in found.indices[words][order]])
    return best
