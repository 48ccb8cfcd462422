"""How long a log takes from the workspace's Parquet to the first training batch, what an example takes, and the most memory held.

    python benchmarks/loading.py --impressions 5000000

The log is encoded into shards; a process reads them; and the batches come as fast as beside them those from examples in memory.
Each run is a process of its own. Users and videos come by Zipf's law; a fifth of the impressions is clicked.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from figures import median_of, peak_gib, show

from rayrec.config import Config, Ranker, Training
from rayrec.data.batches import Batch, training_batches
from rayrec.data.loading import RankingData, ranking_data
from rayrec.data.shards import EncodedLog
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.stages import encode
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log

RANKER = Ranker(context_fields=["device", "hour"], item_fields=["author_id", "primary_class", "secondary_class", "tags"])
DAYS, FIRST = 30, 1_700_000_000_000
TOPICS, TAGS = 6000, 12_000


def zipf(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers below `count`, number i in proportion to 1 / (i + 1)."""
    weights = np.cumsum(1 / np.arange(1, count + 1))
    return np.searchsorted(weights, rng.random(size) * weights[-1], side="right")


def names(prefix: str, numbers: np.ndarray, count: int) -> pa.Array:
    return pa.array([f"{prefix}-{number:010}" for number in range(count)]).take(pa.array(numbers))


def lists(values: pa.Array, each: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, each, dtype=np.int32)), values)


def write(run: StageRun, impressions: int, users: int, videos: int) -> None:
    rng = np.random.default_rng(0)
    log = {
        "user_id": names("user", rng.permutation(users)[zipf(users, impressions, rng)], users),
        "video_id": names("video", rng.permutation(videos)[zipf(videos, impressions, rng)], videos),
        "shown_at": FIRST + np.sort(rng.integers(0, DAYS * 86_400_000, impressions)),
        "clicked": rng.random(impressions) < 0.2,
        "watch_s": rng.exponential(10, impressions).astype(np.float32),
        "request_id": names("request", np.arange(impressions) // 10, impressions // 10 + 1),
        "device": names("device", rng.integers(0, 20, impressions), 20),
    }
    run.write("interactions", pa.table(log))
    catalog = {
        "video_id": names("video", np.arange(videos), videos),
        "title": names("a title of some length for", np.arange(videos), videos),
        "tags": lists(names("tag", zipf(TAGS, 4 * videos, rng), TAGS), 4),
        "author_id": names("author", zipf(videos // 5, videos, rng), videos // 5),
        "primary_class": names("class", rng.integers(0, 50, videos), 50),
        "secondary_class": names("class", rng.integers(0, 367, videos), 367),
    }
    run.write("catalog", pa.table(catalog))
    run.write("users", pa.table({"user_id": names("user", np.arange(users), users), "age": rng.integers(12, 80, users)}))
    run.count(impressions, impressions)


def write_topics(run: StageRun, videos: int) -> None:
    rng = np.random.default_rng(1)
    topics = lists(pa.array(rng.integers(0, TOPICS, 4 * videos), pa.int32()), 4)
    similarity = lists(pa.array(rng.random(4 * videos), pa.float32()), 4)
    ids = names("video", np.arange(videos), videos)
    run.write("topics", pa.table({"video_id": ids, "topics": topics, "similarity": similarity}))
    run.count(videos, videos)


def make(path: str, sizes: dict[str, int]) -> None:
    """The workspace, unless it is there already."""
    log = Stage("ingest", lambda run: write(run, **sizes), writes=("catalog", "interactions", "users"), settings=lambda _: sizes)
    topics = Stage("topics", lambda run: write_topics(run, sizes["videos"]), writes=("topics",), settings=lambda _: sizes)
    for stage in (log, topics):
        run_stage(Workspace(path), stage, Config(workspace=path))


def encode_log(path: str) -> dict[str, float]:
    started = time.perf_counter()
    run_stage(Workspace(path), encode.STAGE, config_of(path), force=True)
    return {"seconds": time.perf_counter() - started, "peak GiB": peak_gib()}


def from_shards(path: str) -> dict[str, float]:
    """What a process finds that trains."""
    workspace, before = Workspace(path), peak_gib()
    encoded = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    started = time.perf_counter()
    data = ranking_data(workspace, encoded, RANKER)
    prepared = time.perf_counter() - started
    next(epoch(data))
    first = time.perf_counter() - started
    files = [path for path in Path(workspace.folder("encode")).iterdir() if path.suffix == ".examples"]
    return {
        "seconds to RankingData": prepared,
        "seconds to the first batch": first,
        "bytes an example": sum(path.stat().st_size for path in files) / encoded.sizes.sum(),
        "GiB before": before,
        "batches: examples/s": rate(data),
        "peak GiB": peak_gib(),
    }


def in_memory(path: str) -> dict[str, float]:
    """The same batches from examples that are all in memory."""
    data = whole_log(Workspace(path), config_of(path))
    # Blocks in memory are found by the number of a row in the log.
    data = replace(data, train=data.train.take(np.argsort(data.train.at, kind="stable")))
    next(epoch(data))
    return {"batches: examples/s": rate(data), "peak GiB": peak_gib()}


def config_of(path: str) -> Config:
    return Config(workspace=path, ranker=RANKER, training=Training(batch_size=8192))


def epoch(data: RankingData) -> Iterator[tuple[Batch, int]]:
    device = torch.device("cpu")
    gather = HistoryGather(data.clicks, LatestClicks(RANKER.history_length), device)
    return training_batches(data.train, gather, config_of("").training, device, seed=0, epoch=0)


def rate(data: RankingData) -> float:
    """Examples a second of an epoch of batches that nobody looks at."""
    started = time.perf_counter()
    return sum(size for _, size in epoch(data)) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--videos", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="keep the workspace here, and use it again")
    options = parser.parse_args()
    sizes = {"impressions": options.impressions, "users": options.users, "videos": options.videos}
    # Each in a fresh process: a child's peak is at least what its parent held.
    apart = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as scratch, apart:
        path = options.folder or scratch
        apart.submit(make, path, sizes).result()
        parts = {
            name: [apart.submit(work, path).result() for _ in range(options.runs)]
            for name, work in (("encoding", encode_log), ("from shards", from_shards), ("in memory", in_memory))
        }
    for title, found in parts.items():
        show(title, [{key: median_of([run[key] for run in found]) for key in found[0]}], **sizes, runs=len(found))


if __name__ == "__main__":
    main()
