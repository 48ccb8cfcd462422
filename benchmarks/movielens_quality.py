"""MovieLens 100K as click prediction: our models beside DeepFM, DIN and DIEN of deepctr-torch, which is nearest to `mmie`.

    PYTHONPATH=. python benchmarks/movielens_quality.py --movielens ml-100k

Ours are those of `configs/movielens_results.yaml`: embeddings of 16, an MLP of 128-64, dropout of .1, batches of 1,024, Adam at
.001, histories of 20, no hidden ids. The peer has the same, on the same rows as `training.py`: a rating from 4 on is a click, and
the log is cut by time. Age and year are categories for it, numbers for us. `quality.py` says how the weight decay is chosen.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers.environments import ENVIRONMENTS
from peers.movielens import rows
from quality import DECAYS, show, standings, trained_by, trained_by_us
from training import MOVIELENS, ROOT

from rayrec.config import load, with_values

OURS = ["deepfm", "din", "mmie"]
LIBRARY, THEIRS = "deepctr-torch", ["deepfm", "din", "dien"]
DROPOUT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", type=Path, default=MOVIELENS, help="a folder with u.data, u.item, u.user and u.genre")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--decays", type=float, nargs="+", default=DECAYS, help="the weight decays to choose from")
    parser.add_argument("--epochs", type=int, default=30, help="at most")
    parser.add_argument("--patience", type=int, default=3, help="epochs without a better validation AUC")
    parser.add_argument("--history", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {name: getattr(options, name) for name in ("epochs", "patience", "history", "threads")} | {"dropout": DROPOUT}
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "workspace": f"{folder}/workspace",
            "dataset.path": str(options.movielens),
            "ranker.dropout": DROPOUT,
            "ranker.history_length": options.history,
            "training.epochs": options.epochs,
            "training.patience": options.patience,
        }
        config = with_values(load(ROOT / "configs" / "movielens_results.yaml"), values)
        ours = trained_by_us(config, {name: {"ranker.model": name} for name in OURS})
        found = standings("rayrec", ours, OURS, options.seeds, options.decays)
        stored = Path(folder) / "rows.npz"
        np.savez(stored, **rows(options.movielens, options.history))
        theirs = trained_by(LIBRARY, stored, settings, options.environments)
        found += standings(LIBRARY, theirs, THEIRS, options.seeds, options.decays)
    show("MovieLens 100K", found, **settings)


if __name__ == "__main__":
    main()
