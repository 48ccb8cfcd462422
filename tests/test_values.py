"""The canonical text of a value: one for every way to write it, the same for a single value and for a column."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from rayrec.values import text_of, texts_of


@pytest.mark.parametrize(
    ("text", "spellings"),
    [
        ("true", [True, "true", "True", "TRUE", np.True_]),
        ("false", [False, "false", "False"]),
        ("1", [1, 1.0, "1", "1.0", "1.000", np.float32(1), Decimal("1.00")]),
        ("0", [0, 0.0, -0.0, "0.0", "-0.0", Decimal("-0.0")]),
        ("1.5", [1.5, "1.5", np.float32(1.5), Decimal("1.50")]),
        ("0.1", [0.1, "0.1", np.float32(0.1)]),
        ("-7", [-7, -7.0, "-7", "-7.0"]),
        ("1000000", [10**6, 1e6, "1000000.0", "1e+06", "1.0E6"]),
        ("0.00001", [1e-5, "1e-05", "1e-5", "0.00001"]),
        (str(2**60), [2**60, float(2**60), "1.152921504606847e+18"]),
        ("02134", ["02134"]),
        ("1.10", ["1.10"]),  # a version, not the number 1.1
        ("12e45", ["12e45"]),  # an id, not a number
        ("9.9e+999", ["9.9e+999"]),
        (" True", [" True"]),
        ("", [""]),
        (None, [None, float("nan"), np.float64("nan")]),
        ("inf", [float("inf")]),
    ],
)
def test_each_value_has_one_text(text: str | None, spellings: list[object]) -> None:
    assert [text_of(value) for value in spellings] == [text] * len(spellings)


def random_values(kind: pa.DataType, rng: np.random.Generator) -> list[object]:
    if pa.types.is_boolean(kind):
        return rng.choice([True, False], 500).tolist()
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        return [limits.min, limits.max, 0, *rng.integers(limits.min, limits.max, 500, kind.to_pandas_dtype()).tolist()]
    if pa.types.is_floating(kind):
        narrow = kind.to_pandas_dtype()
        spread = np.concatenate([10 ** rng.uniform(-4, 4, 300), rng.integers(-2000, 2000, 300), [0.0, -0.0, np.nan, np.inf]])
        return (
            list(spread.astype(narrow))
            if kind != pa.float64()
            else [*spread.tolist(), *(10 ** rng.uniform(-300, 300, 300)).tolist()]
        )
    if pa.types.is_decimal(kind):
        return [Decimal(int(number)).scaleb(-2) for number in rng.integers(-(10**9), 10**9, 500)]
    floats = (10 ** rng.uniform(-30, 30, 300)).tolist()
    written = [form.format(each) for each in floats for form in ("{}", "{:e}", "{:.3f}", "{:g}", "{:.0f}")]
    return [*written, *(str(each) for each in rng.integers(-50, 50, 100)), "True", "FALSE", "x", "007.0", "1\n", "nan", ""]


def written(value: object) -> str | None:
    """The expected text; that of a narrow float as NumPy writes it, with the digits that tell it from its neighbours."""
    if not isinstance(value, np.float16 | np.float32):
        return text_of(value)
    if not np.isfinite(value):
        return text_of(float(value))
    return str(int(value)) if value == int(value) else np.format_float_positional(value, trim="-")


KINDS = [pa.bool_(), pa.int8(), pa.uint64(), pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(12, 2)]


@pytest.mark.parametrize("kind", [*KINDS, pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_a_column_has_the_texts_of_its_values(kind: pa.DataType) -> None:
    values = random_values(kind, np.random.default_rng(3))
    column = pa.chunked_array([pa.array([*values, None], kind), pa.array(values[:7], kind)])
    for each in (column, column.chunk(0)):
        expected = [written(value) for value in [*values, None, *values[:7]]][: len(each)]
        assert texts_of(each).type == pa.large_string()
        assert texts_of(each).to_pylist() == expected


def test_a_float_is_its_number_however_a_column_writes_it() -> None:
    """Independent of `text_of`: the text of each float reads back as the same float, without an exponent."""
    floats = np.random.default_rng(4).normal(size=1000) * 10.0 ** np.arange(-50, 50).repeat(10)
    texts = texts_of(pa.array(floats)).to_pylist()
    assert [float(text) for text in texts] == floats.tolist()
    assert not any("e" in text for text in texts)
    assert texts_of(pa.array([str(each) for each in floats])).to_pylist() == texts


def test_other_types_of_columns() -> None:
    assert texts_of(pa.array(["True", None, "a"]).dictionary_encode()).to_pylist() == ["true", None, "a"]
    assert texts_of(pa.nulls(2)).to_pylist() == [None, None]
    assert texts_of(pa.array([b"1.0"])).to_pylist() == ["1"]
    times = pa.array([0, 1_500], pa.timestamp("ms"))
    assert texts_of(times).to_pylist() == ["1970-01-01 00:00:00", "1970-01-01 00:00:01.5"]
    assert texts_of(times.cast(pa.timestamp("ns", "UTC"))).to_pylist() == ["1970-01-01 00:00:00Z", "1970-01-01 00:00:01.5Z"]
    with pytest.raises(pa.ArrowNotImplementedError):
        texts_of(pa.array([{"a": 1}]))


def test_a_moment_has_one_text_in_all_zones() -> None:
    zones = ("UTC", "Europe/Berlin", "+05:30", "Mars/Phobos")  # the last one is in no database
    columns = [pa.array([1_700_000_000_000, 1_700_000_000_500, None], pa.timestamp("ms", zone)) for zone in zones]
    assert [texts_of(column).to_pylist() for column in columns] == [["2023-11-14 22:13:20Z", "2023-11-14 22:13:20.5Z", None]] * 4
