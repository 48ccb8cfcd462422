"""Turns titles into token ids: hashed words and trigrams for a bag, or subwords for a transformer. Both work for any script.

The bag (fastText; Bojanowski et al., 2017) needs no vocabulary. Subwords are byte-level pairs (BPE) that are learned from the
titles of the catalog, or those of a pretrained transformer. Both vocabularies are a `tokenizers` JSON, which is saved with the
model. The id 0 is padding.
"""

import unicodedata
import zlib

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

BUCKETS = 1 << 14
MAX_BAGGED = 512  # token ids of a title in a bag, so that a title of 10,000 characters costs no more than this
MAX_SUBWORDS = 64  # of a title
VOCABULARY = 8000  # subwords
PADDING = "<pad>"


class HashedTitles:
    """Hashes the words of a title and the trigrams of each word."""

    size = BUCKETS + 1
    padding = 0

    def numbers(self, titles: list[str | None]) -> list[list[int]]:
        return [[1 + zlib.crc32(token.encode()) % BUCKETS for token in words_and_trigrams(title or "")] for title in titles]

    def to_json(self) -> str:
        return ""


class SubwordTitles:
    """Splits a title into subwords of a vocabulary, which is a `tokenizers` JSON."""

    def __init__(self, json: str, padding: int = 0) -> None:
        self.tokenizer = Tokenizer.from_str(json)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_SUBWORDS)
        self.size, self.padding = self.tokenizer.get_vocab_size(), padding

    @classmethod
    def learned(cls, titles: list[str | None]) -> "SubwordTitles":
        """A vocabulary of byte pairs of these titles. Rare and new words are split down to bytes, so that no word is unknown."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, min_frequency=2, special_tokens=[PADDING], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator((title for title in titles if title), trainer)
        return cls(tokenizer.to_str())

    def numbers(self, titles: list[str | None]) -> list[list[int]]:
        return [found.ids for found in self.tokenizer.encode_batch([title or "" for title in titles])]

    def to_json(self) -> str:
        return self.tokenizer.to_str()


TitleCodec = HashedTitles | SubwordTitles


def words_and_trigrams(title: str) -> list[str]:
    """The words of a title and the trigrams of each word, in which `<` and `>` mark its ends."""
    found = []
    for word in unicodedata.normalize("NFKC", title).casefold().split():
        found.append(word)
        framed = f"<{word}>"
        found += [framed[start : start + 3] for start in range(len(framed) - 2)]
        if len(found) >= MAX_BAGGED:
            break
    return found[:MAX_BAGGED]


def padded(lists: list[np.ndarray], padding: int) -> np.ndarray:
    """int64 [titles, longest]; shorter titles are padded."""
    lengths = np.array([len(numbers) for numbers in lists], dtype=np.int64)
    together = np.full((len(lists), max(1, lengths.max(initial=0))), padding, dtype=np.int64)
    together[np.arange(together.shape[1]) < lengths[:, None]] = np.concatenate(lists) if len(lists) else 0
    return together
