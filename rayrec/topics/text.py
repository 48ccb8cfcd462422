"""Titles as bags of hashed words and character trigrams (fastText; Bojanowski et al., 2017).

There is no vocabulary to build, ship or outgrow, and any script works: a Chinese title or an emoji is just other characters.
"""

import unicodedata
import zlib

import numpy as np

BUCKETS = 1 << 14
MOST_TOKENS = 512  # of one title: a title of 10,000 characters costs no more than this


def tokens(title: str) -> list[str]:
    """The words of a title and the trigrams of each, `<` and `>` marking a word's ends."""
    found = []
    for word in unicodedata.normalize("NFKC", title).casefold().split():
        found.append(word)
        framed = f"<{word}>"
        found += [framed[start : start + 3] for start in range(len(framed) - 2)]
        if len(found) >= MOST_TOKENS:
            break
    return found[:MOST_TOKENS]


def hashed_titles(titles: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers of all titles one after the other (int64), and the place where each title begins (int64 [titles])."""
    lists = [[zlib.crc32(token.encode()) % BUCKETS for token in tokens(title or "")] for title in titles]
    lengths = np.array([len(numbers) for numbers in lists], dtype=np.int64)
    return np.array([number for numbers in lists for number in numbers], dtype=np.int64), np.cumsum(lengths) - lengths
