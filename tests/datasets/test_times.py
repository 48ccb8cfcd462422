"""With the unit `auto`, a number is the time that it can be."""

from typing import Any

import pyarrow as pa
import pytest

from rayrec.datasets.times import YEAR_1990, to_time, tomorrow

NOON = 1_706_702_400_000  # 31 January 2024


@pytest.mark.parametrize("kind", ["number", "text", "text among dates"])
@pytest.mark.parametrize("scale", [0.001, 1, 1000])
def test_the_unit_of_each_number_is_found(scale: float, kind: str) -> None:
    wanted = [YEAR_1990, NOON, NOON + 1, tomorrow() - 1000]
    cells: list[Any] = [ms * scale for ms in wanted]
    if kind != "number":
        cells = [repr(cell) for cell in cells]
    if kind == "text among dates":
        cells, wanted = [*cells, "1985-01-02", "2024-01-31T12:00:00Z"], [*wanted, 473_472_000_000, NOON]
    values, faults = to_time(pa.array(cells, pa.large_string() if kind != "number" else None), "auto")
    assert (values.to_pylist(), faults) == (wanted, {})


def test_numbers_of_different_units_in_one_column() -> None:
    assert to_time(pa.array([NOON, NOON // 1000, NOON * 1000, 20240131, None]), "auto")[0].to_pylist() == [
        NOON,
        NOON,
        NOON,
        NOON - 12 * 3_600_000,
        None,
    ]


@pytest.mark.parametrize("number", [0, -1, 5, 2015, YEAR_1990 - 1, YEAR_1990 // 1000 - 1, 10 * NOON, NOON * 10**6, float("inf")])
def test_what_is_a_time_in_no_unit_is_a_fault(number: float) -> None:
    values, faults = to_time(pa.array([float(number), float(NOON)]), "auto")
    assert values.to_pylist() == [None, NOON]
    assert list(faults) == [0]
    assert "is of before 1990 or after tomorrow, whether it is read as s, ms or us; set `dataset.time_unit`" in faults[0]


def test_what_is_no_number_is_a_fault() -> None:
    values, faults = to_time(pa.array(["soon", "nan", str(NOON)], pa.large_string()), "auto")
    assert values.to_pylist() == [None, None, NOON]
    assert faults[0].startswith("'soon' is not a time: neither a number (of s, ms or us) nor ISO 8601")
    assert faults[1].startswith("is not a time")
