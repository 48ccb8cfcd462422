"""How far from zero embeddings should start: the validation AUC of every ranker by the standard deviation of its initial vectors.

    PYTHONPATH=. python benchmarks/initial_values.py --data movielens plain frappe demo

MovieLens 100K as in `configs/movielens_results.yaml` and (`plain`), without any regularisation, as in `training.py`; Frappe as in
`frappe.py`; and the demo world as in `configs/demo.yaml`, whose workspace must hold the stages up to `topics`. Only the validation
split is looked at: the test split must not choose anything.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import show
from frappe import FRAPPE, for_us, read
from training import MOVIELENS, ROOT

from rayrec.config import Config, load, with_values
from rayrec.ranking import embedding, models
from rayrec.ranking.fitting import AUC, LOG_LOSS, train_ranker
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log

WITHOUT_EMBEDDINGS = "lr"
DATA = ["movielens", "plain", "frappe", "demo"]
PLAIN = {"ranker.dropout": 0, "training.weight_decay": 0, "training.epochs": 6}


def configs(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Config]]:
    """The config of each data set that was asked for; its workspace holds what rankers read."""
    for name in options.data:
        if name == "demo":
            yield name, load(ROOT / "configs" / "demo.yaml", [f"workspace={options.demo}"])
            continue
        if name == "frappe":
            (folder / name).mkdir()
            config = for_us(read(options.frappe), folder / name, epochs=60, patience=3)
        else:
            config = load(ROOT / "configs" / "movielens_results.yaml", [f"dataset.path={options.movielens}"])
            config = with_values(config, {"workspace": str(folder / name), **(PLAIN if name == "plain" else {})})
        run_stage(Workspace(config.workspace), load_stage("ingest"), config)
        yield name, config


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--movielens", type=Path, default=MOVIELENS, help="a folder with u.data, u.item and u.user")
    parser.add_argument("--frappe", type=Path, default=FRAPPE, help="a folder with frappe.validation.libfm and frappe.test.libfm")
    parser.add_argument("--demo", type=Path, default=ROOT / "workspace" / "demo", help="the demo's workspace")
    parser.add_argument("--models", nargs="+", default=[name for name in models.NAMES if name != WITHOUT_EMBEDDINGS])
    parser.add_argument("--deviations", type=float, nargs="+", default=[0.05, 0.01, 0.001, 0.0001])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for data, config in configs(options, Path(folder)):
            found = whole_log(Workspace(config.workspace), config)
            rows = []
            for model in options.models:
                ranker, row = config.ranker.model_copy(update={"model": model}), {"model": model}
                for deviation in options.deviations:
                    embedding.INITIAL_DEVIATION = deviation
                    started, best = time.monotonic(), []
                    for seed in options.seeds:
                        _, epochs = train_ranker(found, ranker, config.training, seed)
                        best.append(max(epochs, key=lambda epoch: epoch.metrics[AUC]).metrics)
                    row[f"AUC at {deviation:g}"] = statistics.fmean(one[AUC] for one in best)
                    row[f"log loss at {deviation:g}"] = statistics.fmean(one[LOG_LOSS] for one in best)
                    print(data, model, deviation, best, f"{time.monotonic() - started:.0f} s", flush=True)
                rows.append(row)
            show(f"Initial values on {data}, validation split", rows, seeds=options.seeds, threads=options.threads)


if __name__ == "__main__":
    main()
