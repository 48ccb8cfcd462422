"""How well models rank on the same rows, ours and the peers': what the benchmarks of quality share.

Models overfit small data at different speeds, and one weight decay means different things to them: our Adam decays the rows of a
table that a batch touches, the peers' decays all rows at every step. So everybody gets the same chance rather than the same number:
each model of each library is trained once with each of `DECAYS`, keeps the one with the best validation AUC, and is then trained
with every seed. The test figures are those of the epoch with the best validation AUC.
"""

import hashlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from figures import machine
from peers.environments import environment
from training import LIBRARIES, PEERS, run

from rayrec.config import Config, with_values
from rayrec.stages.compare import RESULTS
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

DECAYS = [0.0, 1e-5, 1e-4, 1e-3]
WITHOUT = "lr"  # FTRL has no weight decay


class Trial(NamedTuple):
    model: str
    weight_decay: float


Run = dict[str, Any]  # `validation_auc`, and of the test split `auc` and `log_loss`
Train = Callable[[list[Trial], list[int]], dict[Trial, list[Run]]]  # a run for each seed


class Standing(NamedTuple):
    library: str
    trial: Trial
    runs: list[Run]


def standings(library: str, train: Train, models: list[str], seeds: list[int], decays: list[float]) -> list[Standing]:
    """Each model with the weight decay that suits it, judged by the first seed, and then with all seeds."""
    tried = train([Trial(model, decay) for model in models for decay in (decays if model != WITHOUT else [0.0])], seeds[:1])
    best: dict[str, Trial] = {}
    for trial, (one,) in tried.items():
        if trial.model not in best or one["validation_auc"] > tried[best[trial.model]][0]["validation_auc"]:
            best[trial.model] = trial
    return [Standing(library, trial, runs) for trial, runs in train(list(best.values()), seeds).items()]


def trained_by(library: str, stored: Path, settings: dict[str, Any], environments: Path) -> Train:
    """A peer, each run in a process of its own. What it showed on these rows, with this script and these settings, is kept."""
    python = environment(LIBRARIES[library], library, environments)
    files = stored, PEERS / LIBRARIES[library].script, PEERS / "common.py"
    same = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    kept = environments / library / "runs"
    kept.mkdir(exist_ok=True)

    def one(trial: Trial, seed: int) -> Run:
        wanted = settings | trial._asdict() | {"seed": seed}
        file = kept / f"{hashlib.sha256(json.dumps([same, wanted]).encode()).hexdigest()}.json"
        if not file.exists():
            file.write_text(json.dumps(run(python, LIBRARIES[library].script, stored, wanted)))
        return json.loads(file.read_text())

    return lambda trials, seeds: {trial: [one(trial, seed) for seed in seeds] for trial in trials}


def trained_by_us(config: Config, models: dict[str, dict[str, Any]]) -> Train:
    """The stage `compare` on the config's data set; `models` gives each one's part of the config."""
    workspace = Workspace(config.workspace)
    run_stage(workspace, load_stage("ingest"), config)

    def train(trials: list[Trial], seeds: list[int]) -> dict[Trial, list[Run]]:
        arms = {f"{name}, {decay}": models[name] | {"training.weight_decay": decay} for name, decay in trials}
        run_stage(workspace, load_stage("compare"), with_values(config, {"comparison.arms": arms, "comparison.seeds": seeds}))
        runs: dict[str, list[Run]] = {arm: [] for arm in arms}
        for pair in json.loads(workspace.read_file(f"{workspace.folder('compare')}/{RESULTS}")):
            measured = pair["measured"]
            if measured is None:
                raise RuntimeError(f"{pair['arm']}, seed {pair['seed']}: {pair['reason']}")
            summary = measured["summary"]
            runs[pair["arm"]].append(measured | {"validation_auc": summary["auc"], "best_epoch": summary["best_epoch"]})
        return dict(zip(trials, runs.values(), strict=True))

    return train


def table(standings: list[Standing]) -> str:
    """In Markdown: mean ± standard deviation over the seeds, the best means in bold."""
    means = {metric: [statistics.fmean(run[metric] for run in one.runs) for one in standings] for metric in ("auc", "log_loss")}
    best = {"auc": max(means["auc"]), "log_loss": min(means["log_loss"])}
    lines = ["| model | library | AUC | log loss | weight decay | best epochs |", "|---|---|---|---|---|---|"]
    for place, (library, trial, runs) in enumerate(standings):
        cells = []
        for metric, values in means.items():
            text = f"{values[place]:.4f}".removeprefix("0")
            spread = f" ± {statistics.stdev(run[metric] for run in runs):.4f}".replace(" 0.", " .") if len(runs) > 1 else ""
            cells.append((f"**{text}**" if values[place] == best[metric] else text) + spread)
        epochs = ", ".join(str(run["best_epoch"]) for run in runs)
        cells += [f"{trial.weight_decay:g}", epochs]
        lines.append(f"| {' | '.join([trial.model, library, *cells])} |")
    return "\n".join(lines)


def show(title: str, standings: list[Standing], **facts: Any) -> None:
    """The table, how it came to be, and all of it as one JSON line."""
    peers = [LIBRARIES[library].package for library in dict.fromkeys(one.library for one in standings) if library in LIBRARIES]
    about = machine() | dict(peer.split("==") for peer in peers)
    print(f"{title}, test split\n\n{table(standings)}\n")
    print(", ".join(f"{name} {value}" for name, value in {**facts, **about}.items()))
    rows = [{"library": library, **trial._asdict(), "runs": runs} for library, trial, runs in standings]
    print(json.dumps({"benchmark": title, "rows": rows, **facts, "machine": about}))
