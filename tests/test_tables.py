"""Schemas: every table survives a round trip, and every kind of fault is found where it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec import tables
from rayrec.tables import TABLES, TableError, conform, screen, validate

SAMPLES: dict[pa.DataType, list] = {
    pa.large_string(): ["a", "ب 🎬"],
    pa.int64(): [0, 2**53],
    pa.int32(): [0, 7],
    pa.float32(): [0.0, 1.5],
    pa.float64(): [0.0, 0.25],
    pa.bool_(): [True, False],
    pa.large_binary(): [b"", b"\xff\xd8"],
    pa.list_(pa.float32()): [[], [0.25, -1.0]],
    pa.list_(pa.int32()): [[], [3, 1]],
    pa.list_(pa.large_string()): [[], ["x", "y"]],
}


@pytest.mark.parametrize("name", [*TABLES, "rejects"])
def test_round_trip_through_parquet(name: str, tmp_path: Path) -> None:
    table = pa.table({field.name: pa.array(SAMPLES[field.type], field.type) for field in tables.spec_of(name).schema})
    pq.write_table(validate(name, table), tmp_path / "part.parquet")
    assert validate(name, pq.read_table(tmp_path / "part.parquet")).equals(conform(name, table))


def test_missing_optional_columns_become_nulls_and_required_ones_are_an_error() -> None:
    catalog = validate("catalog", pa.table({"video_id": ["v"]}))
    assert catalog.column_names == TABLES["catalog"].schema.names
    assert catalog["title"].null_count == 1
    with pytest.raises(TableError, match="interactions: column 'clicked' is missing"):
        validate("interactions", pa.table({"user_id": ["u"], "video_id": ["v"], "shown_at": [1]}))


def test_an_unknown_column_is_refused_with_the_nearest_name_but_what_comes_from_outside_keeps_its_own() -> None:
    with pytest.raises(TableError, match="unknown column 'covr'; did you mean 'cover'"):
        validate("vectors", pa.table({"video_id": ["v"], "covr": [[1.0]]}))
    assert validate("users", pa.table({"user_id": ["u"], "age": [7]}))["age"].to_pylist() == [7]
    assert validate("catalog", pa.table({"video_id": ["v"], "country": ["is"]}))["country"].to_pylist() == ["is"]
    with pytest.raises(TableError, match="no table 'catalogue'; did you mean 'catalog'"):
        tables.spec_of("catalogue")


@pytest.mark.parametrize(
    ("column", "values", "row", "reason"),
    [
        ("user_id", ["a", ""], 1, "is empty"),
        ("video_id", [None, "v"], 0, "has no value"),
        ("shown_at", [1, -5], 1, "below 0"),
        ("watch_s", [1.0, float("nan")], 1, "not a finite number"),
        ("watch_s", [float("inf"), 1.0], 0, "not a finite number"),
    ],
)
def test_a_fault_is_named_by_column_and_row(column: str, values: list[Any], row: int, reason: str) -> None:
    columns = {"user_id": ["a", "b"], "video_id": ["v", "w"], "shown_at": [1, 2], "clicked": [True, False], column: values}
    with pytest.raises(TableError, match=f"column '{column}', row {row}: .*{reason}"):
        validate("interactions", pa.table(columns))


def test_vectors_with_nan_and_repeated_keys_are_faults() -> None:
    vector = pa.array([[1.0, 2.0], [float("nan")]], pa.list_(pa.float32()))
    with pytest.raises(TableError, match="column 'vector', row 1"):
        validate("embeddings", pa.table({"video_id": ["a", "b"], "vector": vector}))
    with pytest.raises(TableError, match=r"row 2: 'a' repeats the key"):
        validate("catalog", pa.table({"video_id": ["a", "b", "a"]}))


def test_screen_keeps_every_good_row_and_gives_each_bad_one_a_reason() -> None:
    rows = pa.table(
        {
            "user_id": ["a", "", "c", "d"],
            "video_id": ["v", "v", "v", None],
            "shown_at": [1, 2, 3, 4],
            "clicked": [True, True, False, False],
            "watch_s": [1.0, 1.0, float("nan"), 0.0],
        }
    )
    good, bad = screen("interactions", rows, source="log.csv", stage="ingest")
    assert good["user_id"].to_pylist() == ["a"]
    assert bad["row"].to_pylist() == [1, 2, 3]
    assert set(bad["source"].to_pylist()) == {"log.csv"}
    assert set(bad["stage"].to_pylist()) == {"ingest"}
    reasons = ["user_id is empty", "watch_s: 'nan' is not a finite number", "video_id is empty"]
    assert bad["reason"].to_pylist() == reasons


def test_a_column_of_the_wrong_type_is_named() -> None:
    with pytest.raises(TableError, match="column 'shown_at' should be int64"):
        conform("interactions", pa.table({"user_id": ["a"], "video_id": ["v"], "shown_at": ["soon"], "clicked": [True]}))


def test_empty_has_the_schema_of_conform() -> None:
    assert tables.empty("catalog").schema == conform("catalog", pa.table({"video_id": np.array(["v"])})).schema
