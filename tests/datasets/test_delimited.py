"""CSV files, sound and damaged: a broken row costs itself, and no quote swallows rows without a word."""

import bz2
import csv
import gzip
import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from rayrec.datasets import delimited
from rayrec.datasets.delimited import csv_blocks, read_csv
from rayrec.datasets.source import Limits
from rayrec.tables import TableError

Written = Callable[[str, str | bytes], str]
GOOD = [f"v{n},title {n}" for n in range(30)]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def read(path: str) -> tuple[list[tuple[str | None, ...]], dict[int, str]]:
    """The rows as text, and the reasons of the rejects by row of data, from 0. Every row of the file is one or the other."""
    found = read_csv(path)
    rows = [tuple(None if cell is None else cell.decode() for cell in row.values()) for row in found.table.to_pylist()]
    rejects = {row["row"] - 2: row["reason"] for row in found.rejects.to_pylist()}
    assert sorted([*(found.rows - 2).tolist(), *rejects]) == list(range(found.read))  # the header is row 1
    return rows, rejects


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"x,caf\xe9, bar", "has 3 cells, the table 2 columns: 'x,caf"),
        (b"x,one,two", "has 3 cells, the table 2 columns: 'x,one,two'"),
        (b"alone", "has 1 cells"),
        (b'x,"never closed', "opens a quote that is not closed: 'x,\"never closed'"),
        (b'"x,never closed', "opens a quote that is not closed"),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("at", [0, 7, 30])
def test_a_broken_row_costs_itself(written: Written, broken: bytes, reason: str, quoted: bool, at: int) -> None:
    good = [",".join(f'"{cell}"' for cell in row.split(",")) if quoted else row for row in GOOD]
    lines = [b"video_id,title", *(row.encode() for row in good[:at]), broken, *(row.encode() for row in good[at:])]
    rows, rejects = read(written("c.csv", b"\n".join(lines) + b"\n"))
    assert rows == [tuple(row.split(",")) for row in GOOD]
    assert list(rejects) == [at]
    assert rejects[at].startswith(reason)


def test_an_open_quote_that_a_later_one_closes_costs_its_row(written: Written) -> None:
    text = 'video_id,title,class\nv1,One,a\nv2,"Best of,b\nv3,x,c\nv4,"Hello, world",d\nv5,e,f\n'
    rows, rejects = read(written("c.csv", text))
    assert [row[0] for row in rows] == ["v1", "v3", "v4", "v5"]
    assert rows[2] == ("v4", "Hello, world", "d")
    assert list(rejects) == [1]


def test_a_mark_of_inches_does_not_hide_the_rows_before_it(written: Written) -> None:
    rows, rejects = read(written("c.csv", 'video_id,title\nx,"open\n' + "\n".join(GOOD) + '\ny,a screen of 15"\n'))
    assert rows == [*(tuple(row.split(",")) for row in GOOD), ("y", 'a screen of 15"')]
    assert list(rejects) == [0]


def test_text_of_several_lines_is_sound(written: Written) -> None:
    text = 'video_id,title\r\nv1,"a\r\nb, ""c""\r\nd"\r\n\r\nv2,"x, y\nz"\r\n'
    assert read(written("c.csv", text)) == ([("v1", 'a\r\nb, "c"\r\nd'), ("v2", "x, y\nz")], {})


def test_a_long_record_with_an_extra_cell_is_one_reject(written: Written) -> None:
    text = 'video_id,title\nv1,"several\nlines\nof text",more\nv2,x\n'
    rows, rejects = read(written("c.csv", text))
    assert rows == [("v2", "x")]
    assert list(rejects) == [0]


def test_both_readers_agree_on_random_files(written: Written) -> None:
    """Arrow's reader, the one for damaged files, and Python's writer, on cells of all difficult characters."""
    rng = np.random.default_rng(5)
    for number in range(60):
        cells = rng.choice(["a", '"', ",", "\n", "\r\n", "\u00e9", " ", "\U0001f3ac"], (8, 3, 4))
        expected = [("k", *("".join(cell) for cell in row)) for row in cells]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("key", "a", "b", "c"), *expected])
        path = written(f"{number}.csv", text.getvalue())
        (damaged,) = csv_blocks(path, Limits(), careful=True)
        assert damaged.rejects.num_rows == 0
        assert [tuple(cell.decode() for cell in row.values()) for row in damaged.table.to_pylist()] == expected
        assert read(path) == (expected, {})


def test_headers(written: Written) -> None:
    assert read_csv(written("a.csv", b"id,gr\xf6sse\n1,2\n")).table.column_names == ["id", "gr\ufffdsse"]
    assert read_csv(written("b.csv", b"\xef\xbb\xbfid,x\n1,2,3\n4,5\n")).table.to_pylist() == [{"id": b"4", "x": b"5"}]
    with pytest.raises(TableError, match=r"c.csv: the file is in UTF-16; save it as UTF-8"):
        read_csv(written("c.csv", "id,x\n1,2\n".encode("utf-16")))
    with pytest.raises(TableError, match=r"d.csv: 2 columns are named 'x'"):
        read_csv(written("d.csv", b"x,x\n1,2,3\n"))


def test_a_quote_that_opens_a_block_of_many_rows(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "LONGEST_ROW", 1000)
    rows, rejects = read(written("c.csv", 'video_id,title\nx,"open\n' + "\n".join(GOOD * 20) + "\n"))
    assert len(rows) == 600
    assert list(rejects) == [0]


def test_files_without_quotes_and_in_latin_1(written: Written) -> None:
    path = written("u.item", 'a|"caf\u00e9\nb|x|y\nc|z\n'.encode("latin1"))
    found = read_csv(path, ["id", "name"], "|", encoding="latin1", quotes=False)
    assert found.table.to_pylist() == [{"id": b"a", "name": '"caf\u00e9'.encode()}, {"id": b"c", "name": b"z"}]
    assert found.rejects["row"].to_pylist() == [2]  # there is no header


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,x\n1,2\n".encode("utf-16"), "is in UTF-16; save it as UTF-8"),
        ("id,x\n1,2\n".encode("utf-16-le"), "is in UTF-16, UTF-32 or binary; save it as UTF-8"),
        ("id,x\n1,2\n".encode("utf-16-be"), "is in UTF-16, UTF-32 or binary; save it as UTF-8"),
        (gzip.compress(b"id,x\n1,2\n", mtime=0), r"is compressed \(gzip\); unpack it"),
        (pa.compress(b"id,x\n1,2\n", "zstd", asbytes=True), r"is compressed \(Zstandard\); unpack it"),
        (b"PK\x03\x04\x14\0", "is a ZIP archive or an Excel workbook"),
        (b"PAR1\x15\0\nPAR1", "is a Parquet file; let its name end with .parquet"),
        (b"id;x\n1;2\n", "header 'id;x' is separated by ';'; separate columns by commas"),
        (b"id\tx\n1\t2\n", r"header 'id.{2}x' is separated by '.t'; separate columns by commas"),
    ],
)
def test_what_is_no_csv_is_named(written: Written, content: bytes, sentence: str) -> None:
    with pytest.raises(TableError, match=f"c.csv: the .*{sentence}"):
        read_csv(written("c.csv", content))


@pytest.mark.parametrize(("ending", "packed"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstd)])
def test_compressed_files(written: Written, ending: str, packed: Callable[[bytes], bytes]) -> None:
    text = b"video_id,title\n" + b"\n".join(row.encode() for row in GOOD)
    expected = [tuple(row.split(",")) for row in GOOD]
    assert read(written(f"a.csv.{ending}", packed(text[:100]) + packed(text[100:]))) == (expected, {})
    rows, rejects = read(written(f"b.csv.{ending}", packed(text + b'\nx,"open\n')))
    assert (rows, list(rejects)) == (expected, [30])
    for content in (packed(text)[:-6], text):
        with pytest.raises(TableError, match=rf"c.csv.{ending}: not a readable CSV file: "):
            read_csv(written(f"c.csv.{ending}", content))


def test_one_letter_is_enough_of_a_file(written: Written) -> None:
    assert read_csv(written("c.csv", b"a\n\n")).table.column_names == ["a"]
