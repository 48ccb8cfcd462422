"""The typical words and tags of a topic: those frequent in it and rare in the others (class-based tf-idf; Grootendorst, 2022)."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer

# In scripts without spaces (Han, kana) every character is a word, and so is every emoji; elsewhere a word has at least two letters.
SINGLE = r"\u3040-\u30ff\u3400-\u9fff\U0001f300-\U0001faff"
FEW_TITLES = 10  # a word in at most this number of titles counts, even where they are more than a tenth of all
LEAD = 3  # words that name a topic on pages
SPARE = 12  # words beyond those wanted, which may tell a topic from another
WORD = rf"[{SINGLE}]|[^\W{SINGLE}][^\W{SINGLE}]+"


def membership(topics: Sequence[np.ndarray], count: int, weights: Sequence[np.ndarray] | None = None) -> sp.csr_matrix:
    """Which topic has which video, float32 [topics, videos]: ones, or the weights, of the shape of `topics`."""
    rows = np.concatenate(topics) if len(topics) else np.empty(0, dtype=np.int64)
    columns = np.repeat(np.arange(len(topics)), [len(found) for found in topics])
    values = np.ones(len(rows), dtype=np.float32) if weights is None or not len(rows) else np.concatenate(weights)
    return sp.csr_matrix((values, (rows, columns)), shape=(count, len(topics)))


def title_words(titles: list[str | None]) -> tuple[sp.csr_matrix, list[str]]:
    """The counts of words in titles [videos, words], and the words: those in at least two titles and at most a tenth of all."""
    counter = CountVectorizer(min_df=2, max_df=max(FEW_TITLES, len(titles) // 10), token_pattern=WORD)
    try:
        counts = counter.fit_transform(title or "" for title in titles)
    except ValueError:  # scikit-learn raises it when there is no such word
        return sp.csr_matrix((len(titles), 0), dtype=np.float32), []
    return counts.astype(np.float32), counter.get_feature_names_out().tolist()


def typical(found: sp.csr_matrix, names: list[str], max_words: int) -> list[list[str]]:
    """At most `max_words` typical words of each topic, the best first. `found` [topics, words]: how often a topic has a word.

    A word that says what a better one has said ("noodles" after "noodle", "#ramen" after "ramen soup") is left out. People see
    the first `LEAD` words as the name of a topic. Of topics that would have the same name, the one with the most words keeps it,
    and the others begin with a word that tells them apart, where they have one.
    """
    if not names:
        return [[] for _ in range(found.shape[0])]
    everywhere = np.asarray(found.sum(axis=0)).ravel()
    idf = np.log1p(found.sum() / found.shape[0] / np.maximum(everywhere, 1))
    best = []
    for topic in range(found.shape[0]):
        words = slice(found.indptr[topic], found.indptr[topic + 1])
        weights = found.data[words] * idf[found.indices[words]]
        order = np.argsort(-weights, kind="stable")
        best.append(_without_duplicates((names[word] for word in found.indices[words][order]), max_words + SPARE))
    return [words[:max_words] for words in _told_apart(best, np.asarray(found.sum(axis=1)).ravel())]


def stems(word: str) -> frozenset[str]:
    """The parts of a word or tag without what does not tell it from others: case, signs, and the s of an English plural."""
    parts = re.findall(r"\w+", unicodedata.normalize("NFKC", word).casefold())
    plural = re.compile(r"[a-z]{3,}[^\Ws]s")
    return frozenset(part[:-1] if plural.fullmatch(part) else part for part in parts) or frozenset([word])


def _without_duplicates(words: Iterable[str], count: int) -> list[str]:
    """The first `count` words, without those that a word before them says or is said by."""
    kept: dict[str, frozenset[str]] = {}
    for word in words:
        found = stems(word)
        if not any(found <= other or found >= other for other in kept.values()):
            kept[word] = found
            if len(kept) == count:
                break
    return list(kept)


def _told_apart(topics: list[list[str]], sizes: np.ndarray) -> list[list[str]]:
    """The words of each topic in an order such that, where possible, no two topics have the same first words."""
    named = list(topics)
    taken: set[frozenset[frozenset[str]]] = set()
    for topic in np.argsort(-sizes, kind="stable"):
        words = topics[topic]
        for own in [None, *words[LEAD:]]:
            order = words if own is None else [own, *(word for word in words if word != own)]
            if _lead(order) not in taken:
                named[topic] = order
                break
        taken.add(_lead(named[topic]))
    return named


def _lead(words: list[str]) -> frozenset[frozenset[str]]:
    return frozenset(map(stems, words[:LEAD]))
