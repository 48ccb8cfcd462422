"""How fast `POST /v1/music` answers at a fixed rate, over HTTP: for a video of the catalog, and for one given by its vectors.

    PYTHONPATH=. python benchmarks/music_serving.py [--tracks 1000 10000 100000] [--rate 50]

The world is that of `benchmarks/serving.py`, with made-up sounds: the space of search is learned from them for one epoch, and
tracks and users have random vectors. A client in another process sends requests when they are due, so that an answer that is late
makes the next ones late as well. The service is `rayrec serve`: HAProxy, a replica each that recalls, ranks and searches.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from figures import median_of, show
from serving_load import client, world
from serving_load.client import Traffic
from serving_load.service import Service, end_cleanly, progress, serving, spent

from rayrec.config import Config, with_values
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

SOUND, FACTORS = 34, 33  # numbers of a sound's features and of a track's vector
BODIES = 100  # different requests
SIZE = world.Size(videos=20_000, users=4_000, impressions=100_000, topics=100)


def with_music(config: Config, tracks: int) -> Config:
    """The config of the world when it has music of so many tracks, and a new bundle."""
    files = {"kind": "files", "tracks": "tracks.parquet", "ratings": "ratings.parquet"}
    config = with_values(config, {"music": {"data": files}, "search": {"modalities": ["audio"], "epochs": 1}})
    for stage in (_features(SIZE.videos), load_stage("search_index"), _music(tracks), load_stage("publish")):
        run_stage(Workspace(config.workspace), stage, config, force=stage.name == "music")
    return config


def _features(videos: int) -> Stage:
    def work(run: StageRun) -> None:
        sounds = list(np.random.default_rng(1).standard_normal((videos, SOUND)).astype(np.float32))
        run.write("features", pa.table({"video_id": world.video_ids(videos), "status": ["ok"] * videos, "audio": sounds}))
        run.count(0, 0)

    return Stage("extract", work, writes=("features",))


def _music(tracks: int) -> Stage:
    def work(run: StageRun) -> None:
        rng = np.random.default_rng(2)
        ids, users = [f"t{number}" for number in range(tracks)], ["", *(f"u{number}" for number in range(SIZE.users))]
        sounds, vectors = (list(rng.standard_normal((tracks, size)).astype(np.float32)) for size in (SOUND, FACTORS))
        tastes = list(rng.standard_normal((len(users), FACTORS)).astype(np.float32) / 10)
        run.write("music_tracks", pa.table({"track_id": ids, "vector": vectors}))
        run.write("music_users", pa.table({"user_id": users, "vector": tastes}))
        run.write("track_features", pa.table({"track_id": ids, "status": ["ok"] * tracks, "audio": sounds}))
        run.write_file("model/record.json", to_json({"mean": 3.5, "low": 1.0, "high": 5.0}))
        run.count(0, 0)

    return Stage("music", work, writes=("music_tracks", "music_users", "track_features"))


def bodies(kind: str) -> tuple[str, ...]:
    draw = random.Random(3)
    requests: list[dict[str, Any]] = [{"user_id": f"u{draw.randrange(SIZE.users)}", "k": 10} for _ in range(BODIES)]
    for request in requests:
        if kind == "id":
            request["video_id"] = f"v{draw.randrange(SIZE.videos)}"
        else:
            request["vectors"] = {"audio": [round(draw.gauss(0, 1), 4) for _ in range(SOUND)]}
    return tuple(map(json.dumps, requests))


def measure(service: Service, traffic: Traffic) -> dict[str, float]:
    before = service.cpu()
    answers = client.run(traffic)
    cpu = sum(seconds for _, seconds in spent(before, service.cpu()).values())
    percentiles = {f"p{percentile} ms": answers.milliseconds(percentile) for percentile in (50, 95, 99)}
    counts = {"requests/s": answers.per_second(), "errors": float(sum(answers.errors().values()))}
    return counts | percentiles | {"CPU ms a request": 1000 * cpu / max(len(answers.at), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of which the median is given")
    options = parser.parse_args()
    end_cleanly()
    os.environ.setdefault("COLUMNS", "160")
    rows = []
    with tempfile.TemporaryDirectory(prefix="rayrec-bench-", ignore_cleanup_errors=True) as folder:
        started = time.monotonic()
        config = world.build(Path(folder) / "world", SIZE, [])
        progress(f"{SIZE}: built in {time.monotonic() - started:.0f} s")
        for tracks in options.tracks:
            config = with_music(config, tracks)
            with serving(config) as service:
                for kind in ("id", "vectors"):
                    progress(f"{tracks:,} tracks, videos by {kind}")
                    load = {"path": "music", "bodies": bodies(kind), "rate": options.rate}
                    client.run(Traffic(service.port, options.connections, 10, 1, 1, **load))  # until all is warm
                    plan = Traffic(service.port, options.connections, options.seconds, 1, 1, **load)
                    runs = [measure(service, plan) for _ in range(options.rounds)]
                    medians = {name: median_of([run[name] for run in runs]) for name in runs[0]}
                    rows.append({"tracks": tracks, "video by": kind, **medians})
    show(f"Music at {options.rate:g} requests a second", rows, videos=SIZE.videos, users=SIZE.users, seconds=options.seconds)


if __name__ == "__main__":
    main()
