"""One new video among many: what `extract` costs when a features table of many videos is there. Without media and networks.

    python benchmarks/incremental.py [--videos N] [--new N]

The table is made of synthetic rows with tiny vectors; the catalog's files are one file under many names (hard links), so that
their versions are found as those of real ones are. Then the catalog gets new videos, of which the features are made without Ray.
Shown are the seconds, the bytes and files that the run wrote, and the most memory that the process took.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from figures import show

from rayrec import tables
from rayrec.config import Config
from rayrec.features.part_files import Part, write_rows
from rayrec.features.rows import EXTRACTED
from rayrec.stages import extract
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

VECTOR, COVER = 16, 64  # numbers in a vector, bytes in a cover
FOLDER_FILES = 10_000  # in a folder of media


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--videos", type=int, default=200_000)
    arguments.add_argument("--new", type=int, default=1)
    given = arguments.parse_args()
    extract._extract = in_this_process
    with tempfile.TemporaryDirectory() as folder:
        config = Config(workspace=f"{folder}/workspace")
        workspace, uris = Workspace(config.workspace), media(Path(folder) / "media", given.videos + given.new)
        rows = []
        for name, count in (("all", given.videos), ("with new ones", given.videos + given.new)):
            ingest(workspace, config, uris[:count])
            rows.append({"run": name, "videos": count} | measured(workspace, lambda: run_stage(workspace, extract.STAGE, config)))
        show("extract, part files and their bookkeeping only", rows, videos=given.videos, new=given.new)


def media(folder: Path, count: int) -> list[str]:
    """The files, made as hard links to one file in each folder."""
    uris = []
    for number in range(count):
        path = folder / f"{number // FOLDER_FILES:04d}" / f"{number:08d}.mp4"
        if number % FOLDER_FILES == 0:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"not read")
        else:
            os.link(folder / f"{number // FOLDER_FILES:04d}" / f"{number // FOLDER_FILES * FOLDER_FILES:08d}.mp4", path)
        uris.append(str(path))
    return uris


def ingest(workspace: Workspace, config: Config, uris: list[str]) -> None:
    def work(run: StageRun) -> None:
        run.write("catalog", tables.from_columns("catalog", {"video_id": [Path(uri).stem for uri in uris], "uri": uris}))

    run_stage(workspace, Stage("ingest", work, writes=("catalog",)), config, force=True)


def in_this_process(run: StageRun, pending: pa.Table, total: int, parts: extract.NewParts) -> None:
    """Instead of the pipeline: rows of random numbers, which are written as the workers write them."""
    for part in made(run, pending, parts.names):
        parts.add(part)


def made(run: StageRun, pending: pa.Table, names: Iterator[str]) -> Iterator[Part]:
    rng = np.random.default_rng(0)
    for start in range(0, pending.num_rows, extract.PART_VIDEOS):
        some = pending.slice(start, extract.PART_VIDEOS)
        count = some.num_rows
        columns: dict[str, Any] = {field.name: pa.nulls(count, field.type) for field in EXTRACTED}
        columns |= {"video_id": some["video_id"], "file_version": some["file_version"], "status": ["ok"] * count}
        columns |= {"image": list(rng.normal(size=(count, VECTOR)).astype(np.float32)), "cover_jpeg": [rng.bytes(COVER)] * count}
        yield write_rows(run.workspace.uri, next(names), pa.table(columns).cast(EXTRACTED))


def measured(workspace: Workspace, work: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, CPU seconds, files and bytes that are new in the workspace, and the peak of the process's memory."""
    before = files(workspace)
    start, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    new = {path: size for path, size in files(workspace).items() if path not in before}
    parts = [size for path, size in new.items() if path.endswith(".parquet") and "/features/" in path]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu, 2),
        "parts_written": len(parts),
        "part_bytes": sum(parts),
        "other_bytes": sum(new.values()) - sum(parts),
        "peak_gib": round(peak, 2),
    }


def files(workspace: Workspace) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in Path(workspace.root, "extract").rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
