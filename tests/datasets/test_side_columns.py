"""The type of a side column does not depend on how its values are cut into blocks."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.datasets.side_columns import cast, decided, facts_of
from rayrec.tables import TEXT
from rayrec.values import text_of

FLOATS, TEXTS = pa.large_list(pa.float64()), pa.large_list(TEXT)


def typed(*blocks: pa.Array) -> tuple[pa.DataType | None, list]:
    """The type of the column with these blocks, and its values."""
    sides = decided([{"x": facts_of(pa.chunked_array([block]))} for block in blocks])
    parts = [
        cast(pa.table({"user_id": pa.nulls(len(block), TEXT), "x": block}), tables.empty("users").schema, sides) for block in blocks
    ]
    whole = pa.concat_tables(parts)
    return (sides["x"], whole["x"].to_pylist()) if "x" in sides else (None, [])


def text(*values: str | None) -> pa.Array:
    return pa.array(values, TEXT)


@pytest.mark.parametrize(
    ("blocks", "kind", "values"),
    [
        ([text("1", "2"), text("3")], pa.int64(), [1, 2, 3]),
        ([text("1"), text("2.5"), text(None)], pa.float64(), [1, 2.5, None]),
        ([text("1"), text("x")], TEXT, ["1", "x"]),
        ([text("1"), text("02134")], TEXT, ["1", "02134"]),
        ([text("0x1f"), text("2.5")], TEXT, ["0x1f", "2.5"]),
        ([text("1234567890123456"), text("1.5")], TEXT, ["1234567890123456", "1.5"]),
        ([text("1234567890123456"), text("15")], pa.int64(), [1234567890123456, 15]),
        ([pa.nulls(1), text(None)], TEXT, [None, None]),
        ([pa.array([1, 2], pa.int8())], pa.int8(), [1, 2]),
        ([pa.array([1], pa.int8()), pa.array([2], pa.int32())], pa.int64(), [1, 2]),
        ([pa.array([1]), pa.array([2.5]), pa.nulls(1)], pa.float64(), [1, 2.5, None]),
        ([pa.array([2**60]), pa.array([2.5])], TEXT, [str(2**60), "2.5"]),
        ([pa.array([2**63], pa.uint64()), text("x")], TEXT, [str(2**63), "x"]),
        ([pa.array([1.0, float("nan")]), text("2")], pa.int64(), [1, None, 2]),
        ([pa.array([0.1], pa.float32()), pa.array([0.2])], pa.float64(), [0.1, 0.2]),
        ([pa.array([True]), text("x", "true")], TEXT, ["true", "x", "true"]),
        ([pa.array([True]), pa.array([1])], TEXT, ["true", "1"]),
        ([pa.array([["1"], None], TEXTS), pa.array([[2.5]], FLOATS)], FLOATS, [[1.0], None, [2.5]]),
        ([pa.array([[]], TEXTS), pa.array([[2.5]], FLOATS)], FLOATS, [[], [2.5]]),
        ([pa.array([["a"]], TEXTS), pa.array([[2.5, 1.0]], FLOATS)], TEXTS, [["a"], ["2.5", "1"]]),
        ([pa.array([["a"]], TEXTS), text("a")], None, []),
    ],
)
def test_the_type_of_all_blocks(blocks: list[pa.Array], kind: pa.DataType | None, values: list) -> None:
    assert typed(*blocks) == (kind, values)


def test_cuts_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    words = ["1", "-2", "2.5", "007", "1234567890123456789", "+3", "1e5", " 4", "0x1f", "", "x", None]
    for _ in range(500):
        some = rng.choice(np.array(words, object), rng.integers(1, 5), replace=False)
        column = text(*(text_of(word) for word in rng.choice(some, 12)))
        cuts = np.sort(rng.integers(0, 13, 2)).tolist()
        blocks = [column.slice(begin, end - begin) for begin, end in zip([0, *cuts], [*cuts, 12], strict=True)]
        assert typed(*blocks) == typed(column)
