"""Frappe (which apps people used in which context) as click prediction: our field models beside the same models of the peers.

    PYTHONPATH=. python benchmarks/frappe.py --frappe frappe

The usual split's training file is not at hand. Everybody trains on its validation file but for the last tenth of the rows, which
say when to stop (their order is random), and is tested on its test file. All get embeddings of 16, an MLP of 128-64, dropout of .2,
batches of 1,024 and Adam at .001 (but for `lr`, which has FTRL); `quality.py` says how the weight decay is chosen. Ours go the way
of any user's data: two Parquet files, `rayrec ingest`, `rayrec compare`.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peers.environments import ENVIRONMENTS
from quality import DECAYS, show, standings, trained_by, trained_by_us
from training import ROOT

from rayrec.config import Config

FRAPPE = ROOT.parent / "shared" / "data" / "frappe"
FIELDS = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
SPLITS = ["train", "validation", "test"]
HELD_OUT, DROPOUT = 0.1, 0.2
MOMENT = 1_700_000_000_000  # UTC ms, of the training split
NAMES = ["lr", "fm", "afm", "deepfm", "wide_deep", "emlp", "dcn"]
OURS: dict[str, dict[str, Any]] = {name: {"ranker.model": name} for name in NAMES} | {
    "dcn_v2": {"ranker.model": "dcn", "ranker.options": {"version": 2}},
    "mhsa_ac": {"ranker.model": "mhsa_ac"},
    "mhsa_ac, shallow": {"ranker.model": "mhsa_ac", "ranker.options": {"deep": False}},
}
THEIRS = {
    "deepctr-torch": ["fm", "afm", "deepfm", "wide_deep", "dcn", "dcn_v2", "autoint"],
    "torch-rechub": ["deepfm"],
    "fuxictr": ["deepfm"],
}


def read(folder: Path) -> pd.DataFrame:
    """Labels (`clicked`), splits (a place in `SPLITS`) and each field's values, which are libfm's numbers as text."""
    train, test = (libfm(folder / f"frappe.{name}.libfm") for name in ("validation", "test"))
    held_out = len(train) - int(len(train) * HELD_OUT)
    train["split"], test["split"] = np.arange(len(train)) >= held_out, 2
    return pd.concat([train.astype({"split": int}), test], ignore_index=True)


def libfm(path: Path) -> pd.DataFrame:
    """A row's features stand in the order of the fields, and all of them are 1."""
    cells = np.array([line.split() for line in path.read_text().splitlines()])
    numbers = np.strings.partition(cells[:, 1:], ":")
    assert (numbers[2] == "1").all(), f"{path}: a feature is not 1"
    return pd.DataFrame(numbers[0].astype(object), columns=FIELDS).assign(clicked=cells[:, 0] == "1")


def for_peers(log: pd.DataFrame) -> dict[str, np.ndarray]:
    """`SPLIT.FIELD` and `SPLIT.label`, and `size.FIELD`; values that no training row has are number 0."""
    rows: dict[str, np.ndarray] = {}
    for name in FIELDS:
        known = sorted(log[name][log["split"] == 0].unique())
        numbers = log[name].map(dict(zip(known, range(1, len(known) + 1), strict=True))).fillna(0).to_numpy(np.int64)
        rows |= {f"{split}.{name}": numbers[log["split"] == place] for place, split in enumerate(SPLITS)}
        rows[f"size.{name}"] = np.array(len(known) + 1)
    return rows | {f"{split}.label": log["clicked"][log["split"] == place].to_numpy(int) for place, split in enumerate(SPLITS)}


def for_us(log: pd.DataFrame, folder: Path, epochs: int, patience: int) -> Config:
    """The config of a workspace, for Parquet files that are written beside it.

    The log has no times, so that all rows of a split share a moment, and no row of the training split has a history.
    """
    user, item, *context = FIELDS
    names = {user: "user_id", item: "video_id"} | {name: f"c_{name}" for name in context}
    timed = log.assign(split=MOMENT + log["split"]).rename(columns=names | {"split": "shown_at"})
    timed.to_parquet(folder / "interactions.parquet")
    pd.DataFrame({"video_id": log[item].unique()}).to_parquet(folder / "catalog.parquet")
    # Half a row off the test split, so that rounding does not move the cuts.
    test, held_out = ((log["split"] == 2).sum() - 0.5) / len(log), (log["split"] == 1).sum() / len(log)
    return Config.model_validate(
        {
            "workspace": str(folder / "workspace"),
            "dataset": {"kind": "files", **{name: str(folder / f"{name}.parquet") for name in ("catalog", "interactions")}},
            "split": {"validation": held_out, "test": test},
            "ranker": {
                "embedding_size": 16,
                "hidden": [128, 64],
                "dropout": DROPOUT,
                "id_dropout": 0,
                "history_length": 1,
                "history_connection": "none",
                "item_fields": [],
                "context_fields": [names[name] for name in context],
                "topics": False,
            },
            "training": {"epochs": epochs, "patience": patience},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frappe", type=Path, default=FRAPPE, help="a folder with frappe.validation.libfm and frappe.test.libfm")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--decays", type=float, nargs="+", default=DECAYS, help="the weight decays to choose from")
    parser.add_argument("--epochs", type=int, default=60, help="at most")
    parser.add_argument("--patience", type=int, default=3, help="epochs without a better validation AUC")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log = read(options.frappe)
    with tempfile.TemporaryDirectory() as folder:
        ours = trained_by_us(for_us(log, Path(folder), options.epochs, options.patience), OURS)
        found = standings("rayrec", ours, list(OURS), options.seeds, options.decays)
        rows = log["split"].value_counts().sort_index().tolist()
        assert all(one["examples"] == rows for standing in found for one in standing.runs), f"the splits should have {rows} rows"
        stored = Path(folder) / "rows.npz"
        np.savez(stored, **for_peers(log))
        settings = {name: getattr(options, name) for name in ("epochs", "patience", "threads")} | {"dropout": DROPOUT}
        for library, models in THEIRS.items():
            theirs = trained_by(library, stored, settings, options.environments)
            found += standings(library, theirs, models, options.seeds, options.decays)
    order = [*OURS, *THEIRS["deepctr-torch"]]
    found.sort(key=lambda standing: order.index(standing.trial.model))
    show("Frappe", found, **settings, examples=rows)


if __name__ == "__main__":
    main()
