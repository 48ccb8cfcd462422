"""Columns become integers and numbers: vocabularies come from training rows, unknown values are 0, errors name the column."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.errors import DataError
from rayrec.data.fields import FieldEncoder, refuse_not_finite

VECTORS = pa.list_(pa.float32())


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "kind": ["x", "y", "y", "z"],
            "words": [["w", "v"], ["v"], None, ["u", "v"]],
            "age": [1.0, 3.0, None, 100.0],
            "sound": pa.array([[1, 2], [3, 6], None, [5, 5]], VECTORS),
        }
    )


def test_vocabularies_and_scales_come_from_the_rows_that_training_saw(table: pa.Table) -> None:
    encoder = FieldEncoder.fit(table, "id", table.column_names, np.array([True, True, True, False]))
    assert encoder.vocabularies == {"id": ["a", "b", "c"], "kind": ["y", "x"], "words": ["v", "w"]}
    encoded = encoder.encode(table)
    assert encoded.sizes == {"id": 4, "kind": 3, "words": 3}
    assert encoded.categorical["kind"].tolist() == [0, 2, 1, 1, 0]
    assert encoded.multivalued["words"].tolist() == [[0, 0], [2, 1], [1, 0], [0, 0], [1, 0]]
    assert encoded.numeric["age"].tolist() == pytest.approx([0, -1, 1, 0, 98], abs=1e-3)
    assert encoded.vectors["sound"].tolist() == [
        pytest.approx(np.divide(row, 2.5**0.5), abs=1e-4) for row in ([0, 0], [-1, -2], [1, 2], [0, 0], [3, 1])
    ]
    assert encoded.rows_of(pa.array(["c", "?", None, "a"])).tolist() == [3, 0, 0, 1]


@pytest.mark.parametrize("lists", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_lists_of_any_width_are_fields(lists: pa.DataType) -> None:
    vectors = pa.large_list(pa.float64()) if pa.types.is_large_list(lists) else VECTORS
    table = pa.table({"id": ["a", "b"], "words": pa.array([["w"], ["v", "w"]], lists), "x": pa.array([[1.0], [3.0]], vectors)})
    refuse_not_finite(table, "id", table.column_names)
    encoded = FieldEncoder.fit(table, "id", table.column_names, np.array([True, True])).encode(table)
    assert encoded.multivalued["words"].tolist() == [[0, 0], [1, 0], [2, 1]]
    assert encoded.vectors["x"].flatten().tolist() == pytest.approx([0, -1, 1], abs=1e-3)


def test_one_vocabulary_for_all_spellings_of_a_value() -> None:
    seen = pa.table({"id": ["a", "b"], "kind": ["True", "2.0"]})
    encoder = FieldEncoder.fit(seen, "id", ["kind"], np.array([True, True]))
    later = pa.table({"id": ["c", "d", "e"], "kind": ["2", None, "true"]})
    assert encoder.encode(later).categorical["kind"].tolist() == [0, 1, 0, 2]


def test_a_column_that_can_not_be_a_field_is_named() -> None:
    table = pa.table({"id": ["a"], "meta": [{"x": 1}]})
    with pytest.raises(DataError, match=r"column 'meta' holds struct<x: int64>, which can't be a field"):
        FieldEncoder.fit(table, "id", ["meta"], np.array([True]))


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array([1.0, float("nan")]), r"column 'x' of id 'b' holds nan"),
        (pa.array([float("inf"), None]), r"column 'x' of id 'a' holds inf"),
        (pa.array([[0.0, 1.0], [2.0, float("-inf")]], VECTORS), r"column 'x' of id 'b' holds -inf"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(column: pa.Array, sentence: str) -> None:
    table = pa.table({"id": ["a", "b"], "x": column})
    with pytest.raises(DataError, match=sentence):
        refuse_not_finite(table, "id", ["id", "x"])


def test_vectors_of_several_sizes_are_refused() -> None:
    table = pa.table({"id": ["a", "b"], "x": pa.array([[1.0], [1.0, 2.0]], VECTORS)})
    with pytest.raises(DataError, match=r"column 'x' holds vectors of 1 and of 2 numbers"):
        FieldEncoder.fit(table, "id", ["x"], np.array([True, True]))
