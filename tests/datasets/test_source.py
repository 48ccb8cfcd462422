"""Blocks hold every row once, in order and within their limits."""

import pyarrow as pa
import pytest

from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Source, in_blocks
from rayrec.tables import TEXT


@pytest.mark.parametrize(("rows", "size"), [(5, 10**9), (10**9, 50), (1, 1), (10**9, 10**9)])
def test_blocks_of_batches(rows: int, size: int) -> None:
    table = pa.table({"x": range(100)})
    blocks = list(in_blocks(table.to_batches(max_chunksize=3), table.schema, rows, size))
    assert pa.concat_tables(blocks).equals(table)
    assert max(block.num_rows for block in blocks) <= min(100, max(3, min(rows, size // 8)))


def test_no_batches_are_a_block_without_rows() -> None:
    schema = pa.schema([("x", pa.int64())])
    assert [block.schema for block in in_blocks([], schema, 5, 5)] == [schema]


def test_text_in_memory_becomes_that_of_our_tables() -> None:
    table = pa.table({"user_id": ["u"], "age": ["35-49"], "vector": [[1.5]]})
    (block,) = Source.of(SourceTable.of("people", table)).pieces
    assert block.table.table.schema.types == [TEXT, TEXT, pa.list_(pa.float64())]
