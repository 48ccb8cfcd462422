from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from rayrec.datasets.conversion import Conventions, convert, to_side_column

NOON = int(datetime(2024, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)


def converted(values: pa.Array | list, kind: pa.DataType, **conventions: object) -> tuple[list, dict[int, str]]:
    column = pa.chunked_array([values if isinstance(values, pa.Array) else pa.array(values)])
    array, faults = convert(column, kind, Conventions(**conventions))
    assert array.type == kind
    return array.to_pylist(), faults


@pytest.mark.parametrize(
    ("cell", "unit"),
    [
        (str(NOON), "ms"),
        (f"{NOON}.0", "ms"),
        (f"{NOON / 1000}", "s"),
        (f"{NOON * 1000}", "us"),
        ("2024-01-31T12:00:00Z", "ms"),
        ("2024-01-31 12:00:00", "ms"),
        ("2024-01-31T14:00:00+02:00", "s"),
        (" 2024-01-31T12:00:00.000 ", "us"),
    ],
)
def test_times_as_text(cell: str, unit: str) -> None:
    assert converted([cell, None], pa.int64(), time_unit=unit) == ([NOON, None], {})


@pytest.mark.parametrize(
    "array",
    [
        pa.array([NOON * 1000], pa.timestamp("us")),
        pa.array([NOON * 1_000_000 + 5], pa.timestamp("ns", "UTC")),
        pa.array([NOON // 1000], pa.timestamp("s", "Asia/Shanghai")),
    ],
)
def test_times_as_timestamps(array: pa.Array) -> None:
    assert converted(array, pa.int64(), time_unit="s") == ([NOON], {})


def test_dates_begin_at_midnight() -> None:
    assert converted([date(2024, 1, 31)], pa.int64()) == ([NOON - 12 * 3_600_000], {})


def test_a_time_that_is_none_costs_its_cell_alone() -> None:
    values, faults = converted(["1000", "soon", "nan", "inf", str(NOON), "-5"], pa.int64(), time_unit="s")
    assert values == [1_000_000, None, None, None, None, -5000]  # what is negative is for the screening to say
    assert set(faults) == {1, 2, 3, 4}
    assert "'soon' is not a time" in faults[1]
    assert "not a time" in faults[2]
    assert "time_unit" in faults[4]  # milliseconds read as seconds end in a far millennium
    assert converted([1.0, float("nan")], pa.int64())[0] == [1, None]


@pytest.mark.parametrize("column", [["1", "0", None], ["True", "no", None], [True, False, None], [1, 0, None], [1.0, 0.0, None]])
def test_clicks(column: list) -> None:
    assert converted(column, pa.bool_()) == ([True, False, None], {})


def test_clicks_from_a_number() -> None:
    assert converted(["3.5", "4", "x", "nan"], pa.bool_(), click_at_least=4)[0] == [False, True, None, None]
    assert converted([Decimal("4.5"), Decimal("2.0")], pa.bool_(), click_at_least=4) == ([True, False], {})
    values, faults = converted([0, 5], pa.bool_())
    assert values == [False, None]
    assert "click_at_least" in faults[1]


def test_lists_of_words() -> None:
    kind = pa.list_(pa.string())
    assert converted(["a| b |a||c", None, "  "], kind) == ([["a", "b", "c"], None, []], {})
    assert converted(["a;b"], kind, list_separator=";") == ([["a", "b"]], {})
    assert converted([["x", None, "x"], None, []], kind) == ([["x"], None, []], {})
    assert converted([[3, 1]], kind) == ([["3", "1"]], {})


def test_ids_and_titles() -> None:
    assert converted([7, 8], pa.string()) == (["7", "8"], {})
    assert converted([7.0, None], pa.string()) == (["7", None], {})  # what pandas makes of whole numbers with gaps
    assert converted([7.5], pa.string()) == (["7.5"], {})
    assert converted(pa.array(["a", "b", "a"]).dictionary_encode(), pa.string()) == (["a", "b", "a"], {})
    assert converted(pa.array(["x"], pa.large_string()), pa.string()) == (["x"], {})
    assert converted([{"a": 1}], pa.string())[1].keys() == {0}
    values, faults = converted([b"caf\xc3\xa9", b"caf\xe9"], pa.string())
    assert values == ["café", None]
    assert "UTF-8" in faults[1]


def test_numbers() -> None:
    values, faults = converted(["1.5", "long", None], pa.float32())
    assert values == [1.5, None, None]
    assert faults == {1: "'long' is not a number"}
    assert np.isnan(converted(["nan"], pa.float32())[0][0])  # for the screening to say


def test_side_columns_take_the_narrowest_type() -> None:
    kinds = {("1", "2"): pa.int64(), ("1.5", "2"): pa.float64(), ("1", "x"): pa.string(), (True, False): pa.bool_()}
    for values, kind in kinds.items():
        assert to_side_column(pa.chunked_array([list(values)])).type == kind
