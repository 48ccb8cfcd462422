"""What the projections of the space read: the features of each modality, and hashed words where no network reads titles."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from sklearn.preprocessing import normalize

from rayrec.features.reduction import matrix
from rayrec.topics.titles import words_and_trigrams

TEXT = "text"  # the modality that words are projected by
HASHED = 2048  # numbers of a title whose words are hashed


@dataclass(frozen=True)
class Inputs:
    """The features of N videos. A modality that none of them has is left out."""

    count: int
    values: dict[str, np.ndarray]  # float32 [N, D], zeros for a video that lacks the modality
    present: dict[str, np.ndarray]  # bool [N]

    @classmethod
    def of_rows(cls, count: int, rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> "Inputs":
        """From the mask [N] and the vectors of the masked videos, for each modality."""
        values, present = {}, {}
        for name, (mask, vectors) in rows.items():
            if len(vectors):
                values[name] = np.zeros((count, vectors.shape[1]), dtype=np.float32)
                values[name][mask] = vectors
                present[name] = mask
        return cls(count, values, present)

    @classmethod
    def joined(cls, parts: Sequence["Inputs"]) -> "Inputs":
        """The videos of several parts, in their order."""
        sizes = {name: part.values[name].shape[1] for part in parts for name in part.values}
        absent = {name: np.zeros((0, size), dtype=np.float32) for name, size in sizes.items()}
        rows = {
            name: (
                np.concatenate([part.present.get(name, np.zeros(part.count, dtype=bool)) for part in parts]),
                np.concatenate([part.values[name][part.present[name]] if name in part.values else absent[name] for part in parts]),
            )
            for name in sizes
        }
        return cls.of_rows(sum(part.count for part in parts), rows)

    def take(self, rows: np.ndarray) -> "Inputs":
        values, present = ({name: array[rows] for name, array in each.items()} for each in (self.values, self.present))
        return Inputs(len(rows), values, present)


def inputs_of(features: pa.Table, names: Sequence[str], titles: list[str | None] | None) -> Inputs:
    """The inputs of the rows of a table `features`. With `titles`, the text is their hashed words, and else the column `text`.

    Raises `TableError` for vectors of several sizes.
    """
    columns = [name for name in names if name in features.column_names and not (name == TEXT and titles is not None)]
    rows = {name: (features[name].is_valid().to_numpy(), matrix(features[name], name)) for name in columns}
    if titles is not None and TEXT in names:
        mask = np.array([bool(title and title.strip()) for title in titles], dtype=bool)
        rows[TEXT] = mask, hashed([title for title in titles if title and title.strip()])
    return Inputs.of_rows(features.num_rows, rows)


def hashed(texts: Sequence[str]) -> np.ndarray:
    """The words of each text and their trigrams in hashed places, float32 [N, HASHED] of length 1; zeros for a text without any.

    A token that occurs often counts as the square root of its number.
    """
    found = np.zeros((len(texts), HASHED), dtype=np.float32)
    for row, text in zip(found, texts, strict=True):
        places = [zlib.crc32(token.encode()) % HASHED for token in words_and_trigrams(text)]
        np.add.at(row, places, 1)
    return np.asarray(normalize(np.sqrt(found)), dtype=np.float32)
