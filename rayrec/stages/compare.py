"""The stage `compare`: several rankers on the same data with the same budget, each with several seeds, measured on the test split.

A pair of arm and seed that is measured is kept as a small JSON file under a fingerprint of all that it depends on. A run that was
killed therefore goes on with the next pair, and a comparison with one more arm trains that arm alone.
"""

import functools
import hashlib
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from rayrec import __version__, tables
from rayrec.config import Config, ConfigError, Section, dump
from rayrec.data.examples import RankingData
from rayrec.data.history import HistoryGather
from rayrec.data.loading import MAY_READ, READS, ranking_data
from rayrec.errors import RayrecError
from rayrec.ranking.fitting import AUC, predict, train_ranker
from rayrec.ranking.variants import TrainingSummary, device_for, variant
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.metrics import click_metrics
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.stage import Stage, StageRun

RESULTS, TABLE, PICTURE = "results.json", "results.md", "comparison.png"
# What of a ranker's settings decides how its data are prepared (`ranking_data`).
OF_THE_DATA = ("item_fields", "context_fields", "topics", "modalities")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """One arm with one seed."""

    auc: float  # of the test split, as GAUC and log loss
    gauc: float
    log_loss: float
    summary: dict[str, float]  # `TrainingSummary`: of the training, with the validation's AUC and log loss
    parameters: int
    examples: tuple[int, int, int]  # train, validation, test


@dataclass(frozen=True)
class Pair:
    arm: str
    seed: int
    measured: Measured | None
    reason: str = ""  # why it could not be measured


def compare(run: StageRun) -> None:
    """The work of the stage: all pairs as JSON, a table in Markdown, and a picture.

    Raises `ConfigError` for an arm that can't be, before anything is trained, and `RayrecError` when every arm fails.
    """
    arms = arms_of(run.config)
    pairs: dict[tuple[str, int], Pair] = {}
    by_data = sorted(arms, key=lambda name: _data_settings(arms[name]))
    for _, names in itertools.groupby(by_data, key=lambda name: _data_settings(arms[name])):
        alike = list(names)
        load = functools.cache(functools.partial(_load, run, arms[alike[0]]))  # once for all, and not at all when all are kept
        for name, seed in itertools.product(alike, run.config.comparison.seeds):
            pairs[name, seed] = _pair(run, name, arms[name], seed, load)
    in_order = [pairs[name, seed] for name, seed in itertools.product(arms, run.config.comparison.seeds)]
    if not any(pair.measured for pair in in_order):
        raise RayrecError(f"compare: no arm could be trained; {in_order[0].arm}: {in_order[0].reason}")
    run.write_file(RESULTS, json.dumps([asdict(pair) for pair in in_order], indent=1).encode())
    run.write_file(TABLE, f"{table(in_order)}\n{facts(run.config, in_order)}\n".encode())
    run.write_file(PICTURE, picture(in_order))
    run.count(rows_in=len(in_order), rows_out=sum(pair.measured is not None for pair in in_order))


def arms_of(config: Config) -> dict[str, Config]:
    """The config of each arm. Raises `ConfigError` where there are none or one can't be."""
    if not config.comparison.arms:
        raise ConfigError("comparison.arms: there are none; give each a name and what it changes, as {din: {ranker.model: din}}")
    return {name: variant(config, values, f"comparison.arms.{name}") for name, values in config.comparison.arms.items()}


def settings(config: Config) -> dict[str, Any]:
    """What the stage depends on."""
    return {name: dump(getattr(config, name)) for name in ("split", "ranker", "training", "comparison")}


# --- one pair -------------------------------------------------------------------------------------------------------------------


def _pair(run: StageRun, arm: str, config: Config, seed: int, load: Callable[[], RankingData]) -> Pair:
    file = f"pairs/{_fingerprint(run, config, seed)}.json"
    for folder in filter(None, (run.folder, run.previous_folder)):
        try:
            kept = read_whole(run.fs, f"{folder}/{file}")
        except FileNotFoundError:
            continue
        write_whole(run.fs, f"{run.folder}/{file}", kept)
        return Pair(arm, seed, Measured(**json.loads(kept)))
    try:
        measured = _measure(f"{arm}, seed {seed}", config, seed, load())
    except Exception as error:  # whatever it is, the other arms are still wanted
        log.warning("%s, seed %d: %s", arm, seed, error, exc_info=not isinstance(error, RayrecError))
        return Pair(arm, seed, None, str(error) if isinstance(error, RayrecError) else f"{type(error).__name__}: {error}")
    write_whole(run.fs, f"{run.folder}/{file}", json.dumps(asdict(measured), indent=1).encode())
    return Pair(arm, seed, measured)


def _measure(name: str, config: Config, seed: int, data: RankingData) -> Measured:
    def tell(epochs: list[Epoch]) -> None:
        last = epochs[-1]
        log.info("%s: epoch %d, loss %.4f, validation AUC %.4f", name, last.epoch, last.loss, last.metrics[AUC])

    device = device_for(config.training)
    scorer, epochs = train_ranker(data, config.ranker, config.training, seed, device, TrainingCallback(tell))
    gather = HistoryGather(data.clicks, config.ranker.history_length, device)
    found = click_metrics(data.test.user, data.test.clicked, predict(scorer.model, data.test, gather, device))
    log.info("%s: test AUC %.4f, log loss %.4f", name, found["auc"], found["log_loss"])
    return Measured(
        **{metric: found[metric] for metric in ("auc", "gauc", "log_loss")},
        summary=asdict(TrainingSummary.of(epochs, len(data.train))),
        parameters=sum(weights.numel() for weights in scorer.model.parameters()),
        examples=(len(data.train), len(data.validation), len(data.test)),
    )


def _load(run: StageRun, config: Config) -> RankingData:
    return ranking_data(run, config.ranker, config.split)


def _data_settings(config: Config) -> str:
    return json.dumps([getattr(config.ranker, name) for name in OF_THE_DATA])


def _fingerprint(run: StageRun, config: Config, seed: int) -> str:
    """Of what a pair depends on: settings, seed, and the versions of the tables."""
    names = [*run.stage.reads, *(name for name in run.stage.may_read if run.workspace.has(name))]
    stages = sorted({tables.spec_of(name).stage for name in names})
    manifests = [run.workspace.manifest(stage) for stage in stages]
    versions = [manifest.version for manifest in manifests if manifest]
    depends = [__version__, seed, versions, *(dump(section) for section in (config.split, config.ranker, config.training))]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


# --- what is shown of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An arm over its seeds: (mean, standard deviation) of each metric."""

    arm: str
    metrics: dict[str, tuple[float, float]]
    examples_per_s: float
    parameters: int


METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
CHIEF = {"embedding_size", "hidden", "dropout", "history_length", "epochs", "patience", "batch_size", "learning_rate"}


def rows_of(pairs: list[Pair]) -> list[Row]:
    """The arms of which at least one seed could be measured, in the order of the pairs."""
    by_arm: dict[str, list[Measured]] = {}
    for pair in pairs:
        if pair.measured:
            by_arm.setdefault(pair.arm, []).append(pair.measured)
    return [
        Row(
            arm,
            {name: _spread([getattr(one, name) for one in found]) for name in METRICS},
            mean(one.summary["examples_per_s"] for one in found),
            found[0].parameters,
        )
        for arm, found in by_arm.items()
    ]


def table(pairs: list[Pair]) -> str:
    """Markdown: a row for each arm, the best mean of a column in bold, and below it what failed."""
    rows = rows_of(pairs)
    best = {name: (min if name == "log_loss" else max)(row.metrics[name][0] for row in rows) for name in METRICS}
    lines = [f"| | {' | '.join(METRICS.values())} | examples/s | parameters |", f"|---|{'---|' * (len(METRICS) + 2)}"]
    for row in rows:
        cells = [_cell(row.metrics[name], bold=row.metrics[name][0] == best[name]) for name in METRICS]
        lines.append(f"| {row.arm} | {' | '.join(cells)} | {row.examples_per_s:,.0f} | {row.parameters:,} |")
    for arm in dict.fromkeys(pair.arm for pair in pairs):
        if arm not in {row.arm for row in rows}:
            lines.append(f"| {arm} {'| - ' * (len(METRICS) + 2)}|")
    failed = [f"- {pair.arm}, seed {pair.seed}: {pair.reason}" for pair in pairs if not pair.measured]
    return "\n".join([*lines, "", *(["Not measured:", "", *failed, ""] if failed else [])])


def facts(config: Config, pairs: list[Pair]) -> str:
    """How the table came to be, as a line of Markdown; of the settings the chief ones and those that are not the defaults."""
    train, validation, test = next(pair.measured.examples for pair in pairs if pair.measured)
    stated = {name: _stated(getattr(config, name)) for name in ("split", "ranker", "training")}
    sections = "; ".join(f"{name}: {json.dumps(values)}" for name, values in stated.items() if values)
    seeds = ", ".join(map(str, config.comparison.seeds))
    return (
        f"`rayrec compare`, {time.strftime('%Y-%m-%d')}, rayrec {__version__}, {os.cpu_count()} CPU cores; data set "
        f"`{config.dataset.kind}`: {train:,} impressions to train, {validation:,} to validate, {test:,} to test. Mean ± standard "
        f"deviation over the seeds {seeds}, on the test split. `{sections}`"
    )


def _stated(section: Section) -> dict[str, Any]:
    unusual = section.model_dump(exclude_defaults=True)
    return {name: value for name, value in dump(section).items() if name in CHIEF or name in unusual}


def picture(pairs: list[Pair]) -> bytes:
    """A PNG: AUC and log loss of each arm, a point for each seed and a line at their mean."""
    rows = rows_of(pairs)
    figure = Figure(figsize=(10, 1 + 0.32 * len(rows)), layout="constrained")
    shown = ("auc", "log_loss")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), shown, strict=True):
        for place, row in enumerate(rows):
            values = [getattr(pair.measured, name) for pair in pairs if pair.measured and pair.arm == row.arm]
            axes.scatter(values, [place] * len(values), s=22, alpha=0.6, linewidths=0)
            axes.plot([row.metrics[name][0]] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.5)
        axes.set(xlabel=f"{METRICS[name]} of the test split", yticks=range(len(rows)), yticklabels=[row.arm for row in rows])
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return file.getvalue()


def _spread(values: list[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else float("nan")


def _cell(value: tuple[float, float], bold: bool) -> str:
    middle, spread = value
    text = _short(middle)
    return (f"**{text}**" if bold else text) + (f" ± {_short(spread)}" if spread == spread else "")


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


STAGE = Stage("compare", compare, reads=READS, may_read=MAY_READ, settings=settings)
