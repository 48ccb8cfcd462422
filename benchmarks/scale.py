"""How each stage that reads the log grows with it: seconds, CPU seconds, memory and bytes written, from 72,000 impressions on.

    python benchmarks/scale.py --picture docs/images/scaling.png
    python benchmarks/scale.py --times --impressions 50000000 --videos 1000000 --users 2000000

Once is 72,000 impressions of 480 videos by 3,000 users, the size of the demo. The log comes in files of a million rows, each with a
slice of time. Users and videos come by Zipf's law, and a user clicks most of the videos of two topics of theirs. A video has an
author and a class, but no medium: `extract` and `topics` are not run. Then the log grows by a file with one hundredth of its rows
from later times, and the stages run again; training goes on from the ranker that was published (`training.from: current`).

Seconds are of the wall, CPU seconds those of all processes, whose memory is looked at every 50 ms; `peak GiB` is the resident
memory of the largest one, and `private GiB` that without mapped files, whose pages the system takes back when it needs them.
`--picture` draws the curves. With `--s3` the workspace is in an S3 server on this
machine (run with `PYTHONPATH=.`), which counts its requests.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ingest
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from figures import show
from loading import zipf
from matplotlib.figure import Figure

ONCE = {"impressions": 72_000, "videos": 480, "users": 3_000}
FILE_ROWS = 1_000_000
SHARD_ROWS = 2_000_000  # of a large log: what evaluate and publish read at a time, at least
DAY_MS, DAYS, FIRST = 86_400_000, 30, 1_700_000_000_000
TOPICS = 20
STAGES = ("ingest", "encode", "train", "evaluate", "publish")
SETTINGS = [
    "dataset.kind=files",
    "max_rejects=0.2",
    "training.epochs=1",
    "training.batch_size=8192",
    "training.without_topics=false",
    "evaluation.max_users=2000",
    "ranker.context_fields=[device, hour]",
]


def ids(prefix: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(prefix), pa.array(numbers).cast(pa.string()), "")


def write_catalog(folder: Path, videos: int) -> None:
    number = np.arange(videos)
    table = {"author_id": ids("author-", number % (videos // 5 + 1)), "primary_class": ids("class-", number * 7919 % TOPICS)}
    pq.write_table(pa.table({"video_id": ids("video-", number), **table}), folder / "catalog.parquet")


def write_log(folder: Path, number: int, rows: int, begin: float, end: float, videos: int, users: int) -> None:
    """A file with the impressions of a slice of time; `begin` and `end` are shares of the days."""
    rng = np.random.default_rng(number)
    mix = np.random.default_rng(0)
    user, video = mix.permutation(users)[zipf(users, rows, rng)], mix.permutation(videos)[zipf(videos, rows, rng)]
    topic = video * 7919 % TOPICS
    liked = (topic == user % TOPICS) | (topic == user // TOPICS % TOPICS)
    at = FIRST + (DAYS * DAY_MS * (begin + (end - begin) * rng.random(rows))).astype(np.int64)
    table = {
        "user_id": ids("user-", user),
        "video_id": ids("video-", video),
        "shown_at": at,
        "clicked": rng.random(rows) < np.where(liked, 0.5, 0.06),
        "watch_s": rng.exponential(10, rows).astype(np.float32),
        "request_id": ids(f"request-{number}-", np.arange(rows) // 10),
        "device": ids("device-", rng.integers(0, 20, rows)),
    }
    pq.write_table(pa.table(table), folder / "log" / f"{number:05}.parquet", compression="zstd")


def write_files(folder: Path, impressions: int, videos: int, users: int) -> None:
    (folder / "log").mkdir(parents=True)
    write_catalog(folder, videos)
    for number, start in enumerate(range(0, impressions, FILE_ROWS)):
        rows = min(FILE_ROWS, impressions - start)
        write_log(folder, number, rows, start / impressions, (start + rows) / impressions, videos, users)


@dataclass
class Local:
    """A workspace on the disk."""

    uri: str

    def counts(self) -> dict[str, float]:
        return {"MB kept": sum(path.stat().st_size for path in Path(self.uri).rglob("*") if path.is_file()) / 1e6}


class Bucket:
    """A workspace in a server that writes each request to a log."""

    def __init__(self, s3: Any) -> None:
        self.s3, self.uri = s3, s3.uri(f"{s3.bucket()}/space")

    def counts(self) -> dict[str, float]:
        methods = Counter(request.split(" ")[0] for request in self.s3.requests())
        return {method: methods[method] for method in ("GET", "HEAD", "PUT", "POST", "DELETE")}


@contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    from tests.fixtures.s3 import KEYS, s3_server

    os.environ.update(KEYS)
    with s3_server(folder / "requests.log") as server:
        yield Bucket(server)


def run(stage: str, folder: Path, rows: int, place: Local | Bucket, more: Sequence[str] = ()) -> dict[str, Any]:
    """The figures of a stage, with more settings."""
    settings = [f"workspace={place.uri}", f"dataset.catalog={folder}/catalog.parquet", f"dataset.interactions={folder}/log"]
    (folder / "config.yaml").touch()
    settings.append(f"encoding.shards={max(16, rows // SHARD_ROWS)}")
    command = [sys.executable, "-m", "rayrec.cli", stage, str(folder / "config.yaml"), *SETTINGS, *settings, *more]
    before = place.counts()
    found = ingest.run(stage, rows, command)
    counted = {name: count - before[name] for name, count in place.counts().items()}
    return found | {**counted, "CPU us a row": 1e6 / found.pop("rows per CPU second")}


def grown(sizes: dict[str, int], folder: Path, stages: Sequence[str], once: bool, place: Local | Bucket) -> list[dict[str, Any]]:
    """The figures of the stages for a log of these sizes and, unless `once`, for the same log with one hundredth more."""
    rows, new = sizes["impressions"], sizes["impressions"] // 100
    write_files(folder, **sizes)
    found = [{"impressions": rows} | run(stage, folder, rows, place) for stage in stages]
    if once:
        return found
    write_log(folder, 99_999, new, 1, 1.01, sizes["videos"], sizes["users"])
    return found + [
        {"impressions": rows} | run(stage, folder, rows + new, place, ["training.from=current"]) | {"what": f"{stage}, 1 % new"}
        for stage in stages
    ]


def picture(found: list[dict[str, Any]], path: Path) -> None:
    """CPU seconds a row and memory by the size of the log."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("CPU us a row", "peak GiB"), strict=True):
        for stage in STAGES:
            points = [(row["impressions"], row[name]) for row in found if row["what"] == stage]
            axes.plot(*zip(*points, strict=True), marker="o", label=stage)
        axes.set(xscale="log", xlabel="impressions", ylabel=name, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--impressions", type=int, help="one log more, with `--videos` and `--users`")
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--once", action="store_true", help="without the runs of the log that has grown")
    parser.add_argument("--folder", type=Path, help="where the files are made; the default is a temporary folder")
    parser.add_argument("--s3", action="store_true", help="put the workspace into an S3 server and count its requests")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    worlds = [{name: size * times for name, size in ONCE.items()} for times in options.times]
    if options.impressions:
        worlds.append({"impressions": options.impressions, "videos": options.videos, "users": options.users})
    found = []
    for sizes in worlds:
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as scratch,
            bucket(Path(scratch)) if options.s3 else nullcontext(Local(f"{scratch}/workspace")) as place,
        ):
            found += grown(sizes, Path(scratch), options.stages, options.once, place)
    if options.picture:
        picture(found, options.picture)
    show("scale", found)


if __name__ == "__main__":
    main()
