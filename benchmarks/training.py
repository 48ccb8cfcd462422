"""How fast our models train beside the same models of deepctr-torch, torch-rechub and FuxiCTR, and how well they then rank.

    PYTHONPATH=. python benchmarks/training.py --movielens ml-100k

MovieLens 100K as click prediction. Every library gets the same rows, split, batches of 1,024, embeddings of 16, an MLP of 128-64,
histories of 20, Adam at .001 without regularisation, and 2 threads. Each runs in its own environment (made once, with uv) and its
own process, one at a time and in turn. A speed is that of the library's own loop over arrays in memory: the first epoch of a run
warms up and is not counted, nor is any evaluation. The test figures are those of the epoch with the best validation AUC, means over
the rounds, each of which has a seed of its own. A library more than .01 AUC below the best gets no speed.

A third process that works on one of the cores slows the threads of the others down many times over: see that the machine is quiet.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import median_of, show
from peers.environments import ENVIRONMENTS, Peer, environment
from peers.movielens import rows

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
MOVIELENS = ROOT.parent / "shared" / "data" / "ml-100k"
TOLERANCE = 0.01  # of AUC
OURS = "rayrec"


LIBRARIES = {
    "deepctr-torch": Peer("deepctr.py", "deepctr-torch==0.3.0", ("requests", "packaging", "tqdm")),
    "torch-rechub": Peer("rechub.py", "torch-rechub==0.9.0", ("pandas", "tqdm")),
    "fuxictr": Peer("fuxi.py", "fuxictr==2.3.10"),
}


@dataclass(frozen=True)
class Contest:
    history: int
    entries: tuple[tuple[str, str], ...]  # (library, model)


CONTESTS = {
    "deepfm": Contest(20, tuple((library, "deepfm") for library in (OURS, *LIBRARIES))),
    "din": Contest(20, tuple((library, "din") for library in (OURS, *LIBRARIES))),
    "interests": Contest(50, ((OURS, "mmie"), (OURS, "sdin"), ("deepctr-torch", "dien"))),
}


def run(python: Path | str, script: str, stored: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a script says in its last line."""
    variables = {"OMP_NUM_THREADS": str(settings["threads"]), "PYTHONPATH": str(ROOT)}
    command = [str(python), str(PEERS / script), str(stored), json.dumps(settings)]
    print(f"{settings['model']}, {script}, seed {settings['seed']}, load {os.getloadavg()[0]:.1f} ...", file=sys.stderr)
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} ({settings['model']}) failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def standings(contest: Contest, runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A table of one contest; speeds beside the fastest of the peers that rank well enough to count."""
    auc = {entry: statistics.fmean(run["auc"] for run in runs[entry]) for entry in contest.entries}
    speed = {
        entry: median_of([epoch for run in runs[entry] for epoch in run["examples_per_s"][1:]])
        for entry in contest.entries
        if auc[entry] >= max(auc.values()) - TOLERANCE
    }
    fastest = max((speed[entry] for entry in speed if entry[0] != OURS), default=None)
    return [
        {
            "model": entry[1],
            "library": f"{entry[0]} {runs[entry][0]['version']}",
            "examples/s": speed.get(entry, "-"),
            "beside the fastest peer": speed[entry] / fastest if entry in speed and fastest else "-",
            "AUC": auc[entry],
            "spread": max(run["auc"] for run in runs[entry]) - min(run["auc"] for run in runs[entry]),
            "log loss": statistics.fmean(run["log_loss"] for run in runs[entry]),
            "best epochs": [run["best_epoch"] for run in runs[entry]],
        }
        for entry in contest.entries
    ]


def loop_table(stored: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Our loop beside a bare one, epoch by epoch."""
    table = []
    for model in ("deepfm", "din"):
        speeds = run(sys.executable, "loop.py", stored, settings | {"model": model})
        loop, bare = speeds["loop"][1:], speeds["bare"][1:]
        ratio = median_of([ours / theirs for ours, theirs in zip(loop, bare, strict=True)])
        table.append({"model": model, "our loop, examples/s": median_of(loop), "bare loop": median_of(bare), "ratio": ratio})
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--movielens", type=Path, default=MOVIELENS, help="a folder with u.data, u.item, u.user and u.genre")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--parts", nargs="+", choices=[*CONTESTS, "loop"], default=[*CONTESTS, "loop"])
    parser.add_argument("--rounds", type=int, default=3, help="each with another seed")
    parser.add_argument("--epochs", type=int, default=6, help="of which the first is not timed")
    parser.add_argument("--copies", type=int, default=1, help="of the training rows, for machines that are done too soon")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wait", choices=["active", "passive"], default="active", help="how threads of all libraries wait")
    options = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = options.wait
    common = {"epochs": options.epochs, "threads": options.threads, "copies": options.copies}
    facts = common | {"threads wait": options.wait}
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            contest = CONTESTS.get(part, CONTESTS["deepfm"])
            stored = Path(folder) / f"{contest.history}.npz"
            np.savez(stored, **rows(options.movielens, contest.history, options.copies))
            settings = common | {"history": contest.history, "movielens": str(options.movielens)}
            if part == "loop":
                show("Our loop beside a bare loop over ready batches", loop_table(stored, settings | {"seed": 7}), **facts)
                continue
            runs: dict[tuple[str, str], list[dict[str, Any]]] = {entry: [] for entry in contest.entries}
            pythons = {
                entry: sys.executable if entry[0] == OURS else environment(LIBRARIES[entry[0]], entry[0], options.environments)
                for entry in runs
            }
            for seed in range(1, options.rounds + 1):
                for (library, model), python in pythons.items():
                    script = "ours.py" if library == OURS else LIBRARIES[library].script
                    runs[library, model].append(run(python, script, stored, settings | {"model": model, "seed": seed}))
            show(f"Training beside peers: {part}", standings(contest, runs), history=contest.history, **facts)


if __name__ == "__main__":
    main()
