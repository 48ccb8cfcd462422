"""The one place where file systems are opened, and files are read and written whole."""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs


def open_filesystem(uri: str | Path) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path inside it, for a local path or any URI that pyarrow or fsspec knows.

    Raises `ValueError` for a URI whose protocol neither knows, `ImportError` if the package for a protocol is not installed.
    """
    text = str(uri)
    if "://" not in text:
        return pafs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    try:
        return pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        import fsspec  # takes 0.1 s, which local paths need not wait

        filesystem, path = fsspec.core.url_to_fs(text)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def read_whole(fs: pafs.FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as file:
        return file.read()


def write_whole(fs: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write a file under a temporary name and then move it to its place, so that readers see all of it or nothing."""
    fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
    with fs.open_output_stream(path + ".new") as stream:
        stream.write(data)
    fs.move(path + ".new", path)


def file_facts(fs: pafs.FileSystem, paths: list[str]) -> list[tuple[str, int, int]]:
    """(path, bytes, time of change in ns) of each file; (path, -1, -1) for one that is missing."""
    found = fs.get_file_info(paths)
    return [(item.path, item.size, item.mtime_ns) if item.is_file else (item.path, -1, -1) for item in found]
