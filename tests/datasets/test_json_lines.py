"""JSON lines: every object is a row with the values that Python's reader finds, and a line that is none costs itself."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.datasets import json_lines
from rayrec.datasets.json_lines import json_blocks
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Limits
from rayrec.tables import TableError

Written = Callable[[str, str | bytes], str]


def read(path: str, block_bytes: int = 2**20) -> list[SourceTable]:
    return list(json_blocks(path, Limits(block_bytes=block_bytes)))


def rows_of(blocks: list[SourceTable]) -> dict[int, dict[str, Any]]:
    """The rows by their number, without missing values."""
    found = {}
    for block in blocks:
        for number, row in zip(block.rows.tolist(), block.table.to_pylist(), strict=True):
            found[number] = {name: value for name, value in row.items() if value is not None}
    return found


@pytest.mark.parametrize("block_bytes", [2**20, 300, 1])
def test_rows_are_those_of_pythons_reader(written: Written, block_bytes: int) -> None:
    rng = np.random.default_rng(3)
    values = [1, 2**53 + 1, -7, 2.5, 1e300, "a\n\u2028b", "\U0001f3ac", "2024-01-31", "12", True, None, ["x"], [], ["2024-01-31"]]
    rows = [{name: values[rng.integers(len(values))] for name in "abc" if rng.random() < 0.9} for _ in range(60)]
    lines = [json.dumps(row, ensure_ascii=bool(number % 2)) for number, row in enumerate(rows)]
    text = "\n".join(line + ("\n \r" if number % 7 == 0 else "") for number, line in enumerate(lines))
    blocks = read(written("a.jsonl", text), block_bytes)
    assert sum(block.read for block in blocks) == len(rows)
    found = rows_of(blocks)
    for number, row in enumerate(rows, 1):
        assert found[number].keys() == {name for name, value in row.items() if value is not None}
        for name, value in found[number].items():  # as text where the values of a block have no common type
            wanted = {bool: str(row[name]).lower(), str: row[name]}.get(type(row[name]), json.dumps(row[name]))
            assert value == row[name] or value == wanted or float(value) == row[name]


@pytest.mark.parametrize("value", ["2024-01-31", "2024-01-31T12:00:00", ["2024-01-31"], {"day": "2024-01-31"}])
def test_a_date_stays_the_text_that_it_is(written: Written, value: object) -> None:
    (block,) = read(written("a.jsonl", json.dumps({"a": value}) + "\n"))
    assert block.table["a"].to_pylist() == [value]


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 + 1, 12345678901234567890, 10**30])
def test_large_integers_keep_their_digits(written: Written, number: int) -> None:
    blocks = read(written("a.jsonl", f'{{"a": {number}}}\n{{"a": 1.5}}\n{{"a": null}}\n'))
    assert [str(row.get("a")) for row in rows_of(blocks).values()] == [str(number), "1.5", "None"]


BROKEN = [b"{", b"no", b"[1]", b'"text"', b"7", b'{"a": 1}{"a": 2}', b'{"a": "\xe9"}', b'{"a": "\\ud800"}', b'{"a": 1,}']


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_broken_line_costs_itself(written: Written, broken: bytes, at: int) -> None:
    lines = [json.dumps({"a": number}).encode() for number in range(5)]
    lines.insert(at, broken)
    blocks = read(written("a.jsonl", b"\n\n".join(lines)))
    (reject,) = (reject for block in blocks for reject in block.rejects.to_pylist())
    assert reject["row"] == at + 1
    assert reject["reason"].startswith("is not a JSON object: ")
    assert [row["a"] for row in rows_of(blocks).values()] == list(range(5))


def test_columns_that_come_late_or_are_missing(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "READ", 8)
    blocks = read(written("a.jsonl", '{"a": 1}\n{"b": 2}\n{"a": 3}\n'))
    assert [block.table.column_names for block in blocks] == [["a"], ["b", "a"], ["a", "b"]]
    assert list(rows_of(blocks).values()) == [{"a": 1}, {"b": 2}, {"a": 3}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"", "a.jsonl: not readable JSON lines: the file is empty"),
        ("a.jsonl", b'{\n "a": 1\n}\n', r"a.jsonl: not JSON lines: is not a JSON object: '\{'; write one object \{...\} a line"),
        ("a.jsonl", b'[{"a": 1}]', r"a.jsonl: not JSON lines: is not a JSON object: '\[\{\"a\": 1\}\]'"),
        ("a.jsonl.gz", b'{"a": 1}', "a.jsonl.gz: not readable JSON lines: zlib inflate failed"),
        (
            "a.jsonl.zst",
            pa.compress(b'{"a": 1}' * 99, "zstd", asbytes=True)[:-3],
            "a.jsonl.zst: not readable JSON lines: Truncated",
        ),
    ],
)
def test_what_is_no_json_is_named(written: Written, name: str, content: bytes, sentence: str) -> None:
    with pytest.raises(TableError, match=sentence):
        read(written(name, content))


def test_a_line_that_never_ends(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 100)
    with pytest.raises(TableError, match="a line is longer than"):
        read(written("a.jsonl", b"x" * 400), block_bytes=50)


def test_a_mark_of_order_is_no_text(written: Written) -> None:
    (block,) = read(written("a.jsonl", b'\xef\xbb\xbf{"a": 1}\n'))
    assert block.table.to_pylist() == [{"a": 1}]
