"""What Ray Train costs: an epoch inside one of its workers beside the same epoch in a process without Ray.

    PYTHONPATH=. python benchmarks/ray_train.py

Both train the same ranker on the same workspace with one thread each, in turn. The speed is the loop's own, of each epoch but the
first; the start of Ray and of its worker is not in it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from figures import median_of, show

from rayrec.config import Config, load
from rayrec.workspace import Stage, StageRun, Workspace

WITHOUT_RAY = """
import json, sys
from rayrec.config import load
from rayrec.training.data import ranking_data
from rayrec.training.loop import train_ranker
from rayrec.workspace import Workspace
config = load(None, sys.argv[1:])
workspace = Workspace(config.workspace)
data = ranking_data(workspace, config.ranker, config.split)
_, epochs = train_ranker(data, config.ranker, config.training, config.seed)
print(json.dumps([epoch.examples_per_s for epoch in epochs]))
"""
INSIDE_RAY = """
import json, sys
from pathlib import Path
import ray
from rayrec.config import load
from rayrec.pipeline import STAGES, run_stages
from rayrec.workspace import Workspace
config = load(None, [*sys.argv[1:], "training.workers=1"])
ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
run_stages([STAGES["train"]], config, force=True)
facts = json.loads((Path(Workspace(config.workspace).folder("train")) / "ranker" / "progress.json").read_text())
print(json.dumps([epoch["examples_per_s"] for epoch in facts["epochs"]]))
"""


def write_log(run: StageRun, impressions: int) -> None:
    rng = np.random.default_rng(0)
    videos, users = 5_000, 2_000
    names = {
        "user_id": rng.integers(0, users, impressions).astype(str),
        "video_id": rng.integers(0, videos, impressions).astype(str),
    }
    clicked = rng.random(impressions) < 0.2
    run.write("catalog", pa.table({"video_id": np.arange(videos).astype(str)}))
    run.write("interactions", pa.table(names | {"shown_at": np.arange(impressions) * 1000, "clicked": clicked}))
    run.count(impressions, impressions)


def speeds(script: str, settings: list[str]) -> list[float]:
    """Examples a second of each epoch but the first."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script, *settings], env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--impressions", type=int, default=500_000)
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--epochs", type=int, default=6, help="of which the first is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"workspace={folder}",
            f"ranker.model={options.model}",
            f"training.epochs={options.epochs}",
            "training.patience=99",
        ]
        config: Config = load(None, settings)
        ingest = Stage("ingest", lambda run: write_log(run, options.impressions), writes=("catalog", "interactions"))
        Workspace(folder).run(ingest, config)
        rows = []
        for number in range(options.rounds):
            bare, inside = median_of(speeds(WITHOUT_RAY, settings)), median_of(speeds(INSIDE_RAY, settings))
            rows.append({"round": number + 1, "without Ray, examples/s": bare, "inside Ray Train": inside, "ratio": inside / bare})
    ratio = median_of([row["ratio"] for row in rows])
    show(
        "An epoch inside Ray Train beside one without Ray", rows, ratio=round(ratio, 3), model=options.model, epochs=options.epochs
    )


if __name__ == "__main__":
    main()
