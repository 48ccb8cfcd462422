"""A log of people who click the videos of one kind each, in nine of ten cases; a video's tag is its kind."""

from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.workspace.stage import Stage, StageRun

VIDEOS, USERS = 60, 40
GOALS: dict[str, Any] = {"click": "clicked", "like": "liked", "watch": {"label": "watch_s", "loss": "weighted_logistic"}}
START = 1_700_000_000_000  # UTC ms


def catalog() -> pa.Table:
    return pa.table({"video_id": [f"v{i}" for i in range(VIDEOS)], "tags": [[f"t{i % 4}"] for i in range(VIDEOS)]})


def interactions(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    user, video = rng.integers(0, USERS, rows), rng.integers(0, VIDEOS, rows)
    clicked = rng.random(rows) < np.where(video % 4 == user % 4, 0.9, 0.1)
    names = {"user_id": [f"u{i}" for i in user], "video_id": [f"v{i}" for i in video]}
    return pa.table(names | {"shown_at": START + np.arange(rows), "clicked": clicked})


def with_labels(log: pa.Table) -> pa.Table:
    """The log with more that a ranker's `GOALS` learn from: what is clicked is watched for some seconds, and often liked."""
    rng, clicked = np.random.default_rng(1), log["clicked"].to_numpy()
    seconds = np.where(clicked, rng.exponential(5, len(clicked)), 0).astype(np.float32)
    return log.append_column("watch_s", pa.array(seconds)).append_column(
        "liked", pa.array(clicked & (rng.random(len(clicked)) < 0.4))
    )


def ingest(rows: int, labels: bool = False) -> Stage:
    """A stage that writes both into a workspace."""

    def write(run: StageRun) -> None:
        run.write("catalog", catalog())
        run.write("interactions", with_labels(interactions(rows)) if labels else interactions(rows))
        run.count(rows, rows)

    return Stage("ingest", write, writes=("catalog", "interactions"))
