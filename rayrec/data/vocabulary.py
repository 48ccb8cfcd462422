"""Values as canonical texts, and their indices in a vocabulary."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.errors import DataError
from rayrec.values import texts_of


def indices_of(values: pa.Array | pa.ChunkedArray, known: pa.Array, first: int = 0) -> np.ndarray:
    """The index of each value among the known ones, counted from `first`; 0 where it is unknown: int32 [values]."""
    found = pc.index_in(values, value_set=known).fill_null(-first).to_numpy(zero_copy_only=False)
    return found + np.int32(first)  # a copy: Arrow's memory is read-only


def appended(words: list[str], newer: list[str]) -> list[str]:
    """A vocabulary with the words that only a newer one has behind its own, so that each word keeps its index."""
    known = set(words)
    return words + [word for word in newer if word not in known]


def value_indices(name: str, column: pa.ChunkedArray, vocabulary: pa.Array) -> np.ndarray:
    """The index, from 1, of the canonical text of each value in a vocabulary; 0 where it is unknown: int32 [rows]."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    distinct = column.combine_chunks().dictionary_encode()
    known = np.append(indices_of(value_texts(name, distinct.dictionary), vocabulary, 1), np.int32(0))  # the last one for nulls
    return known[distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def value_texts(name: str, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The canonical texts of a column. Raises `DataError` for a type whose values have none."""
    try:
        return texts_of(column)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise DataError(
            f"column {name!r} holds {column.type}, which can't be a field ({error}); make it text or numbers"
        ) from error
