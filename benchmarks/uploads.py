"""How soon an uploaded video is recommended, while others ask for pages.

    PYTHONPATH=. python benchmarks/uploads.py [--videos N] [--uploads N] [--load N] [--clip FILE] [--folder DIR]

The world is the demo's with so many videos: `rayrec run` makes features, topics and a ranker, `rayrec serve` serves it. Then the
same film (10 s, 1280 x 720, made here unless a file is named) is uploaded again and again, each time as a file of its own under a
new id, while --load connections ask for a page every second, each. "answered" is the time until POST /v1/videos is answered with
201, "on a page" the time until a page of all videos, asked for at once by a user without history, holds the video.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from figures import show
from serving_load.client import Answers, Load, Traffic
from serving_load.media import another, film
from serving_load.service import end_cleanly, progress, rayrec, serving, with_serving

from rayrec.config import Config, Uploads, load

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=int, default=480)
    parser.add_argument("--uploads", type=int, default=60)
    parser.add_argument("--load", type=int, default=4, help="connections that each ask for a page every second")
    parser.add_argument("--clip", help="a film to upload instead of the one that is made")
    parser.add_argument("--folder", help="where a world of an earlier run is, or is to be kept")
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "160")
    end_cleanly()
    progress("the film")
    clip = Path(options.clip).read_bytes() if options.clip else film(10, 1280, 720)
    with tempfile.TemporaryDirectory(prefix="rayrec-bench-", ignore_cleanup_errors=True) as folder:
        config = world(Path(options.folder or folder) / "workspace", options.videos)
        with serving(config) as service:
            row = measure(service.port, clip, options)
    facts = {"videos": options.videos, "clip": options.clip or "made", "mb": round(len(clip) / 1e6, 2), "load": options.load}
    show("Upload to recommendation", [row], **facts)


def world(folder: Path, videos: int) -> Config:
    """The demo's world with so many videos, run up to the bundle."""
    users = max(60, videos * 5 // 4)
    size = [f"dataset.videos={videos}", f"dataset.users={users}", f"dataset.requests={12 * users}"]
    config = load(ROOT / "configs" / "demo.yaml", [f"workspace={folder}", *size])
    progress(f"a world of {videos} videos")
    folder.parent.mkdir(parents=True, exist_ok=True)
    rayrec("run", config, "--no-serve")
    everything = config.recall.model_copy(update={"candidates": 10 * videos})
    config = config.model_copy(update={"recall": everything})
    return with_serving(config, uploads=Uploads(), max_k=10 * videos)


def measure(port: int, clip: bytes, options: argparse.Namespace) -> dict[str, Any]:
    """One upload after the other under load. The first two, which are not counted, warm the service up."""
    answered, shown = [], []
    traffic = Traffic(port, options.load, 3600, users=500, videos=options.videos, pause_s=0.95)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http, Load(traffic) as others:
        for number in range(options.uploads + 2):
            began = time.monotonic()
            name, tags = f"upload {number}", ["ramen", "soup"]
            headers = {"Content-Type": "video/mp4"}
            answer = http.post("/v1/videos", content=another(clip), headers=headers, params={"title": name, "tags": tags})
            answered.append(time.monotonic() - began)
            if answer.status_code != 201:
                raise RuntimeError(f"upload {number}: {answer.status_code} {answer.text}")
            page = http.post("/v1/recommend", json={"user_id": f"visitor {number}", "k": 10 * options.videos})
            shown.append(time.monotonic() - began)
            if answer.json()["video_id"] not in {video["video_id"] for video in page.json()["videos"]}:
                raise RuntimeError(f"upload {number} is not on a page of all videos")
            progress(f"{name}: {answered[-1]:.2f} s")
        found = others.stop()
    return row_of(np.array(answered[2:]), np.array(shown[2:]), found)


def row_of(answered: np.ndarray, shown: np.ndarray, others: Answers) -> dict[str, Any]:
    return {
        "uploads": len(answered),
        "answered p50 s": float(np.percentile(answered, 50)),
        "answered p95 s": float(np.percentile(answered, 95)),
        "on a page p50 s": float(np.percentile(shown, 50)),
        "on a page p95 s": float(np.percentile(shown, 95)),
        "other requests/s": others.per_second(),
        "their p50 ms": others.milliseconds(50),
        "their p95 ms": others.milliseconds(95),
        "their errors": sum(others.errors().values()),
    }


if __name__ == "__main__":
    main()
