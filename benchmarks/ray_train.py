"""What Ray Train costs: an epoch inside one of its workers beside the same epoch in a process without Ray.

    PYTHONPATH=. python benchmarks/ray_train.py

Both train the same ranker on the same workspace with one thread each. They live side by side and take turns, epoch by epoch, so
that a machine that is slower for a while is so for both. The speed is the loop's own, of each epoch but the first; the start of
Ray and of its worker is not in it. Ray's workers are at nice 15 by itself, here at 0, since another's priority is not its cost.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from figures import median_of, show

from rayrec.config import Config, dump, load
from rayrec.ranking.fitting import train_ranker
from rayrec.stages.on_ray.training import Processes, train_on_ray
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.trainer import CPU
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log

SIDES = ("without Ray", "inside Ray Train")


def train_in_turn(task: dict[str, Any], worker: Worker = SINGLE, device: torch.device = CPU) -> None:
    """Train an epoch whenever it is this side's turn, then write down the examples a second of each epoch but the first."""
    torch.set_num_threads(1)
    config, folder, side = Config.model_validate(task["config"]), Path(task["folder"]), task["side"]
    data = whole_log(Workspace(config.workspace), config)

    def wait() -> None:
        while not (folder / f"turn-{side}").exists():
            time.sleep(0.005)
        (folder / f"turn-{side}").unlink()

    def pass_on(epochs: list[Epoch]) -> None:
        (folder / f"turn-{1 - side}").touch()
        if len(epochs) < config.training.epochs:
            wait()

    wait()
    _, epochs = train_ranker(data, config.ranker, config.training, config.seed, callback=TrainingCallback(pass_on))
    (folder / f"speeds-{side}").write_text(json.dumps([epoch.examples_per_s for epoch in epochs[1:]]))


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--impressions", type=int, default=500_000)
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--epochs", type=int, default=11, help="of which the first is not timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"ranker.model": options.model, "training.epochs": options.epochs, "training.patience": options.epochs}
        config = load(None, [f"workspace={folder}/workspace", *(f"{key}={value}" for key, value in settings.items())])
        ingest = Stage("ingest", lambda run: write_log(run, options.impressions), writes=("catalog", "interactions"))
        run_stage(Workspace(config.workspace), ingest, config)
        tasks = [{"config": dump(config), "folder": folder, "side": side} for side in range(len(SIDES))]
        (Path(folder) / "turn-0").touch()
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        bare = multiprocessing.get_context("spawn").Process(target=train_in_turn, args=(tasks[0],))
        bare.start()
        train_on_ray(train_in_turn, tasks[1], "epochs", f"{folder}/ray", Processes("training", workers=1, gpus_per_worker=0))
        bare.join()
        ray.shutdown()
        speeds = [json.loads((Path(folder) / f"speeds-{side}").read_text()) for side in range(len(SIDES))]
    ratios = [inside / without for without, inside in zip(*speeds, strict=True)]
    rows = [
        {"epoch": number, **dict(zip(SIDES, pair, strict=True)), "ratio": ratio}
        for number, (*pair, ratio) in enumerate(zip(*speeds, ratios, strict=True), 2)
    ]
    ratio = round(median_of(ratios), 3)
    show("Examples/s inside Ray Train and without Ray", rows, ratio=ratio, model=options.model, impressions=options.impressions)


if __name__ == "__main__":
    main()
