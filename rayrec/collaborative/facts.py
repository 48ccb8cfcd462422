"""What is known of users and items as a matrix of numbers, for models whose priors are linear in it.

Every value of a column is a fact, 1 for those rows that have it: a gender, a genre, an author, or the tenth of the rows in which an
age or a time of publication lies. A value of a few rows can't be told from these rows themselves and is left out.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.vocabulary import indices_of, value_texts
from rayrec.tables import TEXT

MIN_ROWS = 5  # of a value
MAX_FACTS = 500  # of all columns together, those of the most rows first
BINS = 10  # of numbers, with about as many rows in each


def facts_of(table: pa.Table | None, id_column: str, columns: Sequence[str], ids: pa.Array) -> np.ndarray:
    """The facts of these ids, behind row 0, of which nothing is known: float32 [ids + 1, facts].

    Columns that the table lacks, and vectors, are passed over.
    """
    if table is None:
        return np.zeros((len(ids) + 1, 0), np.float32)
    row = indices_of(table[id_column], ids, 1)
    there = row > 0
    found = [np.zeros((len(ids) + 1, 0), np.float32)]
    for name in columns:
        if name in table.column_names and not _is_vector(table.schema.field(name).type):
            rows, values = _valued(name, table[name].filter(pa.array(there)).combine_chunks())
            encoded = pc.dictionary_encode(values)
            matrix = np.zeros((len(ids) + 1, len(encoded.dictionary)), np.float32)
            matrix[row[there][rows], encoded.indices.to_numpy()] = 1
            found.append(matrix)
    facts = np.concatenate(found, axis=1)
    rows_of_fact = facts.sum(axis=0)
    common = np.flatnonzero((rows_of_fact >= MIN_ROWS) & (rows_of_fact < len(ids)))
    kept = np.sort(common[np.argsort(-rows_of_fact[common], kind="stable")][:MAX_FACTS])
    return np.ascontiguousarray(facts[:, kept])


def _valued(name: str, column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The rows that have a value, and the text of the value; a row of a list may have several."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        rows, values = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
    else:
        rows, values = np.arange(len(column)), column
    there = values.is_valid()
    rows, values = rows[there.to_numpy(zero_copy_only=False)], values.filter(there)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        edges = np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS)) if len(numbers) else numbers
        values = pa.array(np.searchsorted(edges, numbers, side="right"))
    return rows, value_texts(name, values).cast(TEXT)


def _is_vector(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_floating(kind.value_type)
