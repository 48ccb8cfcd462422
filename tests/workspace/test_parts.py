"""Tables that are written part by part."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector

from rayrec import tables
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.parts import PartWriter, read_parts


@pytest.mark.parametrize("root", ["", "memory:/"])
def test_parts_keep_what_is_whole(tmp_path: Path, root: str, caplog: pytest.LogCaptureFixture) -> None:
    fs, folder = open_filesystem(f"{root}{tmp_path}/features")
    parts = PartWriter(fs, folder)
    parts.add(pa.table({"video_id": ["a", "b"]}))
    parts.add(pa.table({"video_id": pa.array([], pa.string())}))  # nothing to write
    parts.add(pa.table({"video_id": ["c"]}))
    with fs.open_output_stream(f"{folder}/part-000002.parquet") as stream:
        stream.write(b"PAR1 torn")
    with caplog.at_level(logging.WARNING):
        again = PartWriter(fs, folder)
    assert again.done.to_pylist() == ["a", "b", "c"]
    assert again.next == 2
    assert "part-000002.parquet is not a whole part" in caplog.text
    left = sorted(item.base_name for item in fs.get_file_info(FileSelector(folder)))
    assert left == ["part-000000.parquet", "part-000001.parquet"]


def test_columns_are_read_in_the_types_of_the_schema(tmp_path: Path) -> None:
    """Whichever the parts have: earlier versions wrote types that hold no more than 2 GiB in an array."""
    fs, folder = open_filesystem(f"{tmp_path}/features")
    fs.create_dir(folder)
    for number, kinds in enumerate(((pa.string(), pa.binary()), (pa.large_string(), pa.large_binary()))):
        columns = {"video_id": pa.array([f"v{number}"], kinds[0]), "cover_jpeg": pa.array([b"\xff\xd8"], kinds[1])}
        pq.write_table(pa.table(columns), f"{folder}/part-00000{number}.parquet")
    found = read_parts(fs, folder, "features", ["cover_jpeg", "video_id"])
    assert found.schema == pa.schema({"cover_jpeg": tables.BYTES, "video_id": tables.TEXT})
    assert found.to_pydict() == {"cover_jpeg": [b"\xff\xd8"] * 2, "video_id": ["v0", "v1"]}
    assert PartWriter(fs, folder).done.to_pylist() == ["v0", "v1"]
