"""Which videos have the words of a query in their titles and tags: an inverted index, beside the space.

The space knows the words of the titles that it was learned from. What a word means that none of them had it can't say, but a video
that has the same word is what is meant. A query's words weigh by how rare they are, as in BM25 (Robertson & Zaragoza, 2009); how
often a word occurs and how long a title is makes no difference, since titles are short. What many videos have is left to the space,
which has learned it, and tells a dog from a hot dog.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.tables import TEXT

# Scripts that put no spaces between words: each character counts as one.
UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
NOT_OF_WORDS = r"[^\pL\pM\pN]+"
FEW = 10  # a word that so many more videos have counts half


class Words:
    """The words of N videos. It is never changed."""

    def __init__(self, titles: pa.ChunkedArray, tags: pa.ChunkedArray) -> None:
        """`titles` are texts, `tags` lists of texts, in the same order; either may be null."""
        self.count = len(titles)
        space = pa.scalar(" ", TEXT)
        texts = [titles.combine_chunks().fill_null(""), pc.binary_join(tags.combine_chunks(), space).fill_null("")]
        found = split_words(pc.binary_join_element_wise(*texts, space))
        encoded = found.flatten().dictionary_encode()
        self._codes = {text: code for code, text in enumerate(encoded.dictionary.to_pylist())}
        ends = np.concatenate([[0], pc.list_value_length(found).to_numpy().cumsum()])
        ones, shape = np.ones(len(encoded), dtype=bool), (self.count, len(self._codes))
        by_word = sp.csr_matrix((ones, encoded.indices.to_numpy(), ends), shape).tocsc()
        by_word.sum_duplicates()
        self._rows, self._starts = by_word.indices, by_word.indptr

    def rows_with(self, word: str) -> np.ndarray:
        """The videos that have this word, ascending."""
        code = self._codes.get(word)
        return self._rows[:0] if code is None else self._rows[self._starts[code] : self._starts[code + 1]]

    def shares(self, weights: dict[str, float]) -> np.ndarray | None:
        """The sum of the weights of a query's words that each video has: float32 [N]; None if no video has any of them."""
        rows = {word: found for word in weights if len(found := self.rows_with(word))}
        if not rows:
            return None
        shares = np.zeros(self.count, dtype=np.float32)
        for word, found in rows.items():
            shares[found] += np.float32(weights[word])
        return shares


def weights_of(text: str, segments: list[Words]) -> dict[str, float]:
    """The words of a query with their weights.

    A word that n of all N videos have weighs its share of ln(1 + (N - n + 1/2) / (n + 1/2)), summed over the words, times
    FEW / (FEW + n - 1). So the weights of words that at most one video has sum to 1, and those of common ones to nearly nothing.
    """
    words = dict.fromkeys(split_words(pa.array([text], TEXT))[0].as_py())
    total = sum(segment.count for segment in segments)
    having = {word: sum(len(segment.rows_with(word)) for segment in segments) for word in words}
    rarity = {word: float(np.log1p((total - n + 0.5) / (n + 0.5))) for word, n in having.items()}
    return {word: each / sum(rarity.values()) * FEW / (FEW + max(having[word], 1) - 1) for word, each in rarity.items()}


def split_words(texts: pa.Array) -> pa.ListArray:
    """The words of each text, in lower case and one form of each character. An empty text has none; none is null."""
    plain = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    spaced = pc.replace_substring_regex(plain, UNSPACED, r" \1 ")
    spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(spaced, NOT_OF_WORDS, " "))
    found = pc.split_pattern(spaced, " ")
    return pc.if_else(pc.equal(spaced, ""), pa.scalar([], found.type), found)
