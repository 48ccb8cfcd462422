"""How long `rayrec ingest` takes for a log of so many impressions, and the most memory that one of its processes holds.

    python benchmarks/ingest.py --impressions 10000000 --peer peer/bin/python

The log consists of files of a million rows, each with the rows of some users in no order of time; users and videos come by Zipf's
law. The peer is polars, which does the same join and the same sort in memory: `--peer` names a Python that has it. Seconds are of
the wall, CPU seconds those of all processes. Their memory is looked at every 50 ms.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from figures import show
from loading import DAYS, FIRST, names, zipf

FILE_ROWS = 1_000_000
PEER = """
import sys, polars as pl
log, catalog, out = sys.argv[1:]
known = pl.read_parquet(catalog, columns=["video_id"])
rows = pl.read_parquet(log).join(known, on="video_id", how="semi").sort("shown_at", maintain_order=True)
rows.write_parquet(out, compression="zstd")
print(rows.height)
"""


def write_files(folder: Path, impressions: int, users: int, videos: int, ending: str) -> None:
    """A catalog, and the files of the log. One row in a thousand has a video that is not in the catalog."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    ids = pa.array([f"video-{number:08}" for number in range(videos)])
    titles = pa.array([f"a title of some length for {number}" for number in range(videos)])
    write(pa.table({"video_id": ids, "title": titles}).slice(videos // 1000), folder / f"catalog{ending}")
    for number, start in enumerate(range(0, impressions, FILE_ROWS)):
        rows, rng = min(FILE_ROWS, impressions - start), np.random.default_rng(number)
        requests = np.sort(rng.integers(0, rows // 10 + 1, rows)) + start // 10
        few_users = max(1, users * rows // impressions)
        of_request = rng.integers(0, DAYS * 86_400_000, rows // 10 + 1)
        log = {
            "user_id": names(f"user-{number:03}", zipf(few_users, rows, rng), few_users),
            "video_id": ids.take(pa.array(rng.permutation(videos)[zipf(videos, rows, rng)])),
            "shown_at": FIRST + of_request[requests - start // 10],
            "clicked": rng.random(rows) < 0.2,
            "watch_s": rng.exponential(10, rows).astype(np.float32),
            "request_id": names(f"request-{number:03}", requests - start // 10, rows // 10 + 1),
            "device": names("device", rng.integers(0, 20, rows), 20),
        }
        write(pa.table(log), folder / f"log/{number:05}{ending}")


def write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression="zstd")
    else:
        pa.csv.write_csv(table, path)


def ingest(folder: Path, ending: str) -> list[str]:
    """The command. It writes a new workspace."""
    settings = [f"workspace={folder}/space-{time.time_ns()}", "dataset.kind=files", f"dataset.interactions={folder}/log"]
    (folder / "config.yaml").touch()
    command = [sys.executable, "-m", "rayrec.cli", "ingest", str(folder / "config.yaml"), *settings]
    return [*command, f"dataset.catalog={folder}/catalog{ending}"]


@contextmanager
def measured(found: dict[str, Any]) -> Iterator[Callable[[int], None]]:
    """Puts the figures of a process and of those that it starts into `found`; to be told its number at once."""
    seconds: dict[int, float] = {}
    memory: dict[int, list[int]] = {}
    root: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for pid in root:
                look(pid, seconds, memory)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        yield root.append
    finally:
        found["seconds"] = time.perf_counter() - started
        over.set()
        watcher.join()
        found |= {
            "CPU seconds": sum(seconds.values()),
            "processes": len(memory),
            "peak GiB": max((whole for whole, _ in memory.values()), default=0) / 2**30,
            "private GiB": max((private for _, private in memory.values()), default=0) / 2**30,
        }


def look(pid: int, seconds: dict[int, float], memory: dict[int, list[int]]) -> None:
    """The CPU time of each process, and the most that it held: resident memory, and that without mapped files."""
    try:
        for process in [root := psutil.Process(pid), *root.children(recursive=True)]:
            with process.oneshot():
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system
                held = process.memory_info()
                now, before = (held.rss, held.rss - held.shared), memory.get(process.pid, (0, 0))
                memory[process.pid] = [max(pair) for pair in zip(now, before, strict=True)]
    except psutil.NoSuchProcess:
        pass


def run(name: str, impressions: int, command: list[str]) -> dict[str, Any]:
    """The figures of a command."""
    found: dict[str, Any] = {"what": name}
    with measured(found) as watch:
        process = subprocess.Popen(command, stdout=sys.stderr)
        watch(process.pid)
        failed = process.wait()
    if failed:
        raise SystemExit(f"{name} failed")
    return found | {"rows per CPU second": impressions / found["CPU seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--ending", choices=[".parquet", ".csv"], default=".parquet")
    parser.add_argument("--peer", help="a Python that has polars; without it there is no peer")
    parser.add_argument("--folder", type=Path, help="keep the files here, and use them again")
    options = parser.parse_args()
    sizes = {"impressions": options.impressions, "users": options.users, "videos": options.videos}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "log").exists():
            write_files(folder, ending=options.ending, **sizes)
        found = [run("rayrec ingest", options.impressions, ingest(folder, options.ending))]
        if options.peer and options.ending == ".parquet":
            places = [folder / "log/*.parquet", folder / "catalog.parquet", folder / "peer.parquet"]
            found.append(run("polars", options.impressions, [options.peer, "-c", PEER, *map(str, places)]))
    show("ingest", found, **sizes, ending=options.ending)


if __name__ == "__main__":
    main()
