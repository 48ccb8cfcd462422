"""Tables that are written part by part."""

import logging
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import FileSelector

from rayrec.workspace.files import open_filesystem
from rayrec.workspace.parts import PartWriter


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
