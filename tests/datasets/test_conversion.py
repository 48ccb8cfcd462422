from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from rayrec.datasets.conversion import Conventions, convert, convert_rows, to_side_column
from rayrec.datasets.screening import SourceTable
from rayrec.tables import TEXT

WORDS = pa.list_(TEXT)

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
    kind = pa.list_(pa.large_string())
    assert converted(["a| b |a||c", None, "  "], kind) == ([["a", "b", "c"], None, []], {})
    assert converted(["a;b"], kind, list_separator=";") == ([["a", "b"]], {})
    assert converted([["x", None, "x"], None, []], kind) == ([["x"], None, []], {})
    assert converted([[3, 1]], kind) == ([["3", "1"]], {})


def test_ids_and_titles() -> None:
    assert converted([7, 8], pa.large_string()) == (["7", "8"], {})
    assert converted([7.0, None], pa.large_string()) == (["7", None], {})  # what pandas makes of whole numbers with gaps
    assert converted([7.5], pa.large_string()) == (["7.5"], {})
    assert converted(pa.array(["a", "b", "a"]).dictionary_encode(), pa.large_string()) == (["a", "b", "a"], {})
    assert converted(pa.array(["x"], pa.large_string()), pa.large_string()) == (["x"], {})
    assert converted([{"a": 1}], pa.large_string())[1].keys() == {0}
    values, faults = converted([b"caf\xc3\xa9", b"caf\xe9"], pa.large_string())
    assert values == ["café", None]
    assert "UTF-8" in faults[1]


def test_numbers() -> None:
    values, faults = converted(["1.5", "long", None], pa.float32())
    assert values == [1.5, None, None]
    assert faults == {1: "'long' is not a number"}
    assert np.isnan(converted(["nan"], pa.float32())[0][0])  # for the screening to say


def side(values: pa.Array) -> pa.Array | None:
    return to_side_column(pa.chunked_array([values]))


LISTS = [["x", "y"], None, []]


@pytest.mark.parametrize(
    "tags",
    [
        pa.array(LISTS, pa.large_list(pa.large_string())),
        pa.array(LISTS, pa.list_(pa.string_view())),
        pa.array(LISTS, pa.list_view(pa.string())),
        pa.array(LISTS, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.array([[b"x", b"y"], None, []], pa.list_(pa.binary())),
        pa.array([[["x"], ["y", "x"]], None, [[]]], pa.list_(pa.list_(pa.string()))),
        pa.array([[("x", 1), ("y", 2)], None, []], pa.map_(pa.string(), pa.int64())),
        pa.array(['["x", "y", null]', "null", "[]"]),
        pa.array(['[["x"], "y"]', "NaN", "[ ]"]),
        pa.array(["['x', \"y\"]", "None", "[]"]),
        pa.array(["['x' 'y']", "<NA>", "[]"]),  # a NumPy array in pandas' CSV
        pa.array(["x|y|x", None, " "]),
    ],
    ids=str,
)
def test_tags_of_every_type_are_lists_of_words(tags: pa.Array) -> None:
    assert converted(tags, WORDS) == ([["x", "y"], None, []], {})


def test_fixed_lists_and_words_that_are_values() -> None:
    assert converted(pa.array([["x", "y"], None], pa.list_(pa.string(), 2)), WORDS) == ([["x", "y"], None], {})
    assert converted(pa.array([[1.0, 2.5]]), WORDS) == ([["1", "2.5"]], {})
    assert converted(pa.array(["[1, true]", "1.0", "[Official] film", "[none]"]), WORDS)[0] == [
        ["1", "true"],
        ["1.0"],
        ["[Official] film"],
        ["[none]"],
    ]


@pytest.mark.parametrize(
    "tags",
    [
        pa.array([[{"name": "x"}], None]),
        pa.array([{"name": "x"}, None]),
        pa.array(['{"name": "x"}', None]),
        pa.array(['[{"name": "x"}]', None]),
        pa.array([[b"caf\xe9"], None]),
    ],
    ids=str,
)
def test_tags_that_are_no_words_are_faults(tags: pa.Array) -> None:
    values, faults = converted(tags, WORDS)
    assert values == [None, None]
    assert list(faults) == [0]
    assert "not a list of words" in faults[0]


def test_ids_have_the_text_of_their_value_and_titles_stay_as_they_are() -> None:
    assert converted(["7.0", "07", "1.10", None], TEXT) == (["7", "07", "1.10", None], {})
    column = pa.chunked_array([["7.0", "True"]])
    assert convert(column, TEXT, Conventions(), verbatim=True)[0].to_pylist() == ["7.0", "True"]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_dates_without_separators(unit: str) -> None:
    cells = ["20240131120000", "20240131", "2024-01-31T12:00:00"]
    midnight = NOON - 12 * 3_600_000
    assert converted(cells, pa.int64(), time_unit=unit) == ([NOON, midnight, NOON], {})
    assert converted([20240131120000, 20240131, None], pa.int64(), time_unit=unit) == ([NOON, midnight, None], {})
    assert converted([20240131.0, None], pa.int64(), time_unit=unit)[0] == [midnight, None]
    # What is no date is a number: 30 February, month 13, and the years before 1970 and after 2099.
    assert converted(["20240230", "20241301", "19691231", "21000101", "20240131.5"], pa.int64())[0] == [
        20240230,
        20241301,
        19691231,
        21000101,
        20240132,
    ]


def test_every_compact_date_is_that_of_the_calendar() -> None:
    days = [date(1970, 1, 1) + timedelta(days=int(day)) for day in np.random.default_rng(6).integers(0, 47_000, 500)]
    moments = [datetime(day.year, day.month, day.day, 23, 59, 58, tzinfo=UTC) for day in days]
    written = [int(moment.strftime("%Y%m%d%H%M%S")) for moment in moments]
    assert converted(written, pa.int64())[0] == [int(moment.timestamp() * 1000) for moment in moments]


def test_times_beyond_the_calendar_are_faults() -> None:
    assert converted(pa.array([2**60], pa.timestamp("s")), pa.int64())[1].keys() == {0}
    assert converted([float("inf"), float("-inf")], pa.int64())[1].keys() == {0, 1}
    assert converted(["1e400", "-inf"], pa.int64())[1].keys() == {0, 1}


@pytest.mark.parametrize(
    ("given", "kind", "values"),
    [
        (pa.array([1, None], pa.uint8()), pa.uint8(), [1, None]),
        (pa.array([1.5, None], pa.float16()), pa.float32(), [1.5, None]),
        (pa.array([True, None]), pa.bool_(), [True, None]),
        (pa.array(["True", "02134"], pa.string_view()), TEXT, ["true", "02134"]),
        (pa.array(["a", None]).dictionary_encode(), TEXT, ["a", None]),
        (pa.array([b"a", b"\xff"], pa.large_binary()), TEXT, ["a", None]),
        (pa.array([b"ab"], pa.binary(2)), TEXT, ["ab"]),
        (pa.array([Decimal("1.50")]), TEXT, ["1.5"]),
        (pa.array([date(2024, 1, 31)]), TEXT, ["2024-01-31"]),
        (pa.array([1_000], pa.timestamp("ms")), TEXT, ["1970-01-01 00:00:01"]),
        (pa.array([timedelta(seconds=90)], pa.duration("ms")), pa.float64(), [90.0]),
        (pa.nulls(2), pa.null(), [None, None]),
        (pa.array([None, None], pa.large_string()), pa.null(), [None, None]),
        (pa.array([b"a" * 16], pa.uuid()), TEXT, ["61616161-6161-6161-6161-616161616161"]),
        (pa.array([[1.0], None], pa.large_list(pa.float64())), pa.large_list(pa.float64()), [[1.0], None]),
        (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), pa.large_list(pa.float32()), [[1.0, 2.0], None]),
        (pa.array([["a"], []], pa.list_(pa.string())), pa.large_list(TEXT), [["a"], []]),
        (pa.array([[1, 2]], pa.list_view(pa.int8())), pa.large_list(TEXT), [["1", "2"]]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_side_columns_become_one_type_of_a_kind(given: pa.Array, kind: pa.DataType, values: list) -> None:
    found = side(given)
    assert found is not None
    assert (found.type, found.to_pylist()) == (kind, values)


@pytest.mark.parametrize(
    "given",
    [
        pa.array([{"a": 1}]),
        pa.array([[{"a": 1}]]),
        pa.array([[["a"]]]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([pa.MonthDayNano([1, 2, 3])]),
    ],
    ids=lambda value: str(value.type),
)
def test_side_columns_that_no_ranker_can_use_are_left_out_by_name(given: pa.Array) -> None:
    raw = SourceTable.of("users.parquet", pa.table({"user_id": ["u"], "meta": given}))
    rows = convert_rows("users", raw, {"user_id": "user_id", "meta": "meta"}, Conventions())
    assert rows.table.column_names == ["user_id"]
    (remark,) = rows.remarks
    assert remark.startswith("users.parquet: column 'meta' is left out")


def test_text_beyond_2_gib_in_chunks_is_one_array() -> None:
    """With chunks of a fraction of that: what matters is that no array with 32-bit offsets is made of them."""
    column = pa.chunked_array([pa.array(["a" * 100], pa.string())] * 3)
    array, faults = convert(column, TEXT, Conventions())
    assert array.type == pa.large_string()
    assert convert(column.cast(pa.binary()), TEXT, Conventions())[0].equals(array)
    assert not faults
