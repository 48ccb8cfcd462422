"""Every type of Arrow in every column of a catalog: it is used, or its column or row is named."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import FilesData
from rayrec.data.fields import FieldEncoder
from rayrec.tables import spec_of
from rayrec.workspace.versions import Workspace

Ingest = Callable[..., Workspace]
COLUMNS = [*(name for name in spec_of("catalog").schema.names if name != "video_id"), "own"]
SCALARS: list[tuple[object, list[pa.DataType]]] = [
    (1, [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]),
    (0.5, [pa.float16(), pa.float32(), pa.float64()]),
    (Decimal("1.5"), [pa.decimal32(5, 2), pa.decimal64(9, 2), pa.decimal128(30, 2), pa.decimal256(60, 2)]),
    (1, [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "Asia/Tokyo")]),
    (1, [pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")]),
    (1, [pa.duration(unit) for unit in ("s", "ms", "us", "ns")]),
    ("a", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]),
    (b"a", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1)]),
    (True, [pa.bool_()]),
    (None, [pa.null()]),
    (b"a" * 16, [pa.uuid()]),
    ('{"a": 1}', [pa.json_()]),
]
ONE_OF_A_KIND = [pa.int64(), pa.float16(), pa.float64(), pa.string(), pa.string_view(), pa.binary(), pa.bool_(), pa.date32()]
ONE_OF_A_KIND += [pa.duration("s"), pa.decimal128(30, 2), pa.dictionary(pa.int8(), pa.string())]
VALUES = {kind: value for value, kinds in SCALARS for kind in kinds}
ARRAYS = [pa.array([value, None], kind) for kind, value in VALUES.items()]
for lists in (pa.list_, pa.large_list, lambda kind: pa.list_(kind, 1)):
    ARRAYS += [pa.array([[VALUES[kind]], None], lists(kind)) for kind in ONE_OF_A_KIND]
ARRAYS += [
    pa.array([[["a"]], None]),
    pa.array([[{"a": 1}], None]),
    pa.array([{"a": 1}, None]),
    pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.type))
def test_every_type_is_used_or_named(tmp_path: Path, ingested: Ingest, caplog: pytest.LogCaptureFixture, array: pa.Array) -> None:
    for name in COLUMNS:
        pq.write_table(pa.table({"video_id": ["v1", "v2"], name: array}), tmp_path / "catalog.parquet")
        workspace = ingested(FilesData(kind="files", catalog=str(tmp_path / "catalog.parquet")), str(tmp_path / name))
        catalog, rejects = workspace.read("catalog"), workspace.rejects("ingest").to_pylist()
        assert catalog["video_id"].to_pylist()[-1] == "v2"
        assert catalog.num_rows + len(rejects) == 2
        assert all(reject["reason"].startswith(f"{name}: ") for reject in rejects)
        if name not in catalog.column_names:
            assert f"column '{name}' is left out" in caplog.text
        elif not rejects:
            assert catalog[name].null_count == array.null_count
            encoder = FieldEncoder.fit(catalog, "video_id", ["video_id", name], np.array([True, True]))
            assert len(encoder.encode(catalog).ids) == 3
