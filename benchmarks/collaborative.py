"""How long our collaborative models take to learn beside the same ones of `implicit` and RecBole, and how well they then rank.

    PYTHONPATH=. python benchmarks/collaborative.py --movielens ml-100k --tiktok tiktok

MovieLens 100K (every rating a click, a random tenth of each user's for validation and another for the test) and TikTok's short
videos (their own splits). Every library gets the same pairs, vectors of 64, and the same threads, in its own environment (made
once, with uv) and its own process, one at a time and in turn. Those that learn step by step stop after `--patience` epochs
without a better NDCG@20 on validation (our neumf: a better AUC beside drawn negatives); their seconds are those of the training
alone, up to the best epoch, without any evaluation and without reading the data. ALS has its 15 iterations, and EASE a closed
form. All items are ranked but those clicked in training, and one function measures the lists of all. Figures are medians over the
rounds, each with a seed of its own. Seconds count where the quality is equal: look at NDCG@20 beside them.

See that the machine is quiet.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from figures import median_of, show
from peers.environments import ENVIRONMENTS, Peer, environment
from scipy import sparse

from rayrec.training.metrics import ranking_at_k

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
DATA = ROOT.parent / "shared" / "data"
OURS = "rayrec"
K = 20

LIBRARIES = {
    "implicit": Peer("implicit_lists.py", "implicit==0.7.3"),
    "recbole": Peer(
        "recbole_lists.py",
        "recbole==1.2.1",
        ("pandas", "scipy", "tqdm", "colorlog", "colorama", "pyyaml", "tabulate", "tensorboard", "texttable", "thop", "psutil"),
    ),
}
# What is set beside one another.
CONTESTS = {
    "bpr": (("implicit", "bpr"), ("recbole", "bpr"), (OURS, "bpr")),
    "lightgcn": (("recbole", "lightgcn"), (OURS, "lightgcn")),
    "neumf": (("recbole", "neumf"), (OURS, "neumf")),
    "best": (("implicit", "als"), (OURS, "ease"), (OURS, "multimodal_gcn")),
}


def movielens(folder: Path) -> dict[str, np.ndarray]:
    """Pairs of user and item from 0 in three parts: int64 [pairs, 2] each."""
    pairs = np.loadtxt(folder / "u.data", dtype=np.int64)[:, :2] - 1
    draw = np.random.default_rng(0).random(len(pairs))
    rank = np.empty(len(pairs))
    for user in np.unique(pairs[:, 0]):
        rows = np.flatnonzero(pairs[:, 0] == user)
        rank[rows] = draw[rows].argsort().argsort() / len(rows)
    return {"train": pairs[rank < 0.8], "validation": pairs[(rank >= 0.8) & (rank < 0.9)], "test": pairs[rank >= 0.9]}


def tiktok(folder: Path) -> dict[str, np.ndarray]:
    """The same of TikTok's videos, with `vectors.NAME`."""
    files = {"train": "train.tsv", "validation": "val.tsv", "test": "test.tsv"}
    vectors = {f"vectors.{name}": np.load(folder / f"{name}_feat.npy").astype(np.float32) for name in ("image", "audio")}
    return {part: np.unique(np.loadtxt(folder / file, dtype=np.int64), axis=0) for part, file in files.items()} | vectors


def run(python: Path | str, script: str, stored: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a script says in its last line; the lists that it leaves beside the pairs are measured here."""
    variables = {"OMP_NUM_THREADS": str(settings["threads"]), "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    print(f"{settings['model']}, {script}, seed {settings['seed']}, load {os.getloadavg()[0]:.1f} ...", file=sys.stderr)
    done = subprocess.run(
        [str(python), str(PEERS / script), str(stored), json.dumps(settings)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{script} ({settings['model']}) failed:\n{done.stderr[-3000:]}")
    recall, ndcg = measured(stored, np.load(stored.with_name("lists.npy")))
    return json.loads(done.stdout.splitlines()[-1]) | {"recall": recall, "ndcg": ndcg}


def measured(stored: Path, lists: np.ndarray) -> tuple[float, float]:
    """Recall@20 and NDCG@20 of the lists of all users [U, 20], over the users with a click in the test."""
    pairs = np.load(stored)
    users, items = (int(max(pairs[part][:, column].max() for part in ("train", "validation", "test"))) + 1 for column in (0, 1))
    likes, test = (
        sparse.coo_array((np.ones(len(pairs[part]), np.float32), pairs[part].T), shape=(users, items)).tocsr()
        for part in ("train", "test")
    )
    assert not likes[np.arange(users).repeat(K), lists.ravel()].any(), "a list has an item that was clicked in training"
    rows = np.flatnonzero(np.diff(test.indptr))
    recall, ndcg = ranking_at_k(lists[rows], test[rows]).mean(axis=1)
    return float(recall), float(ndcg)


def standings(entries: tuple[tuple[str, str], ...], runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A table of one contest; ours beside the fastest of the others."""
    seconds = {entry: median_of([run["seconds"] for run in runs[entry]]) for entry in entries}
    fastest = min(seconds[entry] for entry in entries if entry[0] != OURS)
    return [
        {
            "model": model,
            "library": f"{library} {runs[library, model][0]['version']}",
            "seconds": seconds[library, model],
            "CPU seconds": median_of([run["cpu_seconds"] for run in runs[library, model]]),
            "times as fast as the fastest peer": fastest / seconds[library, model] if library == OURS else "-",
            f"Recall@{K}": statistics.fmean(run["recall"] for run in runs[library, model]),
            f"NDCG@{K}": statistics.fmean(run["ndcg"] for run in runs[library, model]),
            "best epochs": [run["best_epoch"] for run in runs[library, model]],
        }
        for library, model in entries
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", type=Path, default=DATA / "ml-100k", help="a folder with u.data")
    parser.add_argument("--tiktok", type=Path, default=DATA / "tiktok", help="a folder with train.tsv and so on")
    parser.add_argument("--data", nargs="+", choices=["movielens", "tiktok"], default=["movielens", "tiktok"])
    parser.add_argument("--parts", nargs="+", choices=[*CONTESTS], default=[*CONTESTS])
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--rounds", type=int, default=3, help="each with another seed")
    parser.add_argument("--epochs", type=int, default=200, help="at most")
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    common = {"epochs": options.epochs, "patience": options.patience, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        for data in options.data:
            stored = Path(folder) / data / "pairs.npz"
            stored.parent.mkdir()
            np.savez(stored, **(movielens(options.movielens) if data == "movielens" else tiktok(options.tiktok)))
            for part in options.parts:
                entries = tuple(entry for entry in CONTESTS[part] if data == "tiktok" or entry[1] != "multimodal_gcn")
                runs: dict[tuple[str, str], list[dict[str, Any]]] = {entry: [] for entry in entries}
                for seed in range(1, options.rounds + 1):
                    for library, model in entries:
                        peer = LIBRARIES.get(library)
                        python = environment(peer, library, options.environments) if peer else sys.executable
                        script = peer.script if peer else "our_lists.py"
                        runs[library, model].append(run(python, script, stored, common | {"model": model, "seed": seed}))
                show(f"Collaborative models beside peers: {part}, {data}", standings(entries, runs), **common)


if __name__ == "__main__":
    main()
