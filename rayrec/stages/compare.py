"""The stage `compare`: trains several rankers on the same data with several seeds, and measures each on the test split.

Each run of one arm with one seed is kept as a small JSON file under a fingerprint of everything that it depends on. A comparison
that was killed therefore continues with the next run, and adding an arm trains that arm alone.
"""

import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from rayrec import __version__, tables
from rayrec.config import Config, ConfigError, dump
from rayrec.data.history import HistoryGather
from rayrec.data.loading import MAY_READ, READS, RankingData, ranking_data
from rayrec.errors import RayrecError
from rayrec.evaluation.comparison import PICTURE, RESULTS, TABLE, ArmRun, Measurement, picture, provenance, table
from rayrec.evaluation.trials import TrainingSummary
from rayrec.ranking.fitting import AUC, predict, train_ranker
from rayrec.ranking.variants import device_for, variant
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.metrics import click_metrics
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.stage import Stage, StageRun

# The ranker's settings on which its data depend (`ranking_data`).
OF_THE_DATA = ("item_fields", "context_fields", "topics", "modalities")
KEPT = TypeAdapter(Measurement)  # the content of a run's JSON file

log = logging.getLogger(__name__)


def compare(run: StageRun) -> None:
    """The work of the stage: writes all runs as JSON, a table in Markdown, and a picture.

    Raises `ConfigError` for an arm that can't be trained, before any training starts, and `RayrecError` when every arm fails.
    """
    arms, seeds = arms_of(run.config), run.config.comparison.seeds
    runs: dict[tuple[str, int], ArmRun] = {}
    by_data = sorted(arms, key=lambda name: _data_settings(arms[name]))
    for _, names in itertools.groupby(by_data, key=lambda name: _data_settings(arms[name])):
        alike = list(names)
        # Called at most once for all these arms, and not at all when each of their runs was kept.
        load = functools.cache(functools.partial(_load, run, arms[alike[0]]))
        for name, seed in itertools.product(alike, seeds):
            runs[name, seed] = _kept_or_measured(run, name, arms[name], seed, load)
    in_order = [runs[name, seed] for name, seed in itertools.product(arms, seeds)]
    if not any(one.measured for one in in_order):
        raise RayrecError(f"compare: no arm could be trained; {in_order[0].arm}: {in_order[0].reason}")
    run.write_file(RESULTS, json.dumps([asdict(one) for one in in_order], indent=1).encode())
    run.write_file(TABLE, f"{table(in_order)}\n{provenance(run.config, in_order)}\n".encode())
    run.write_file(PICTURE, picture(in_order))
    run.count(rows_in=len(in_order), rows_out=sum(one.measured is not None for one in in_order))


def arms_of(config: Config) -> dict[str, Config]:
    """The config of each arm. Raises `ConfigError` when there are no arms or one of them can't be trained."""
    if not config.comparison.arms:
        raise ConfigError("comparison.arms: there are none; give each a name and what it changes, as {din: {ranker.model: din}}")
    return {name: variant(config, values, f"comparison.arms.{name}") for name, values in config.comparison.arms.items()}


def settings(config: Config) -> dict[str, Any]:
    """The settings on which the stage depends."""
    return {name: dump(getattr(config, name)) for name in ("split", "ranker", "training", "comparison")}


def _kept_or_measured(run: StageRun, arm: str, config: Config, seed: int, load: Callable[[], RankingData]) -> ArmRun:
    """The run of one arm and seed: as an earlier comparison kept it, or measured now."""
    file = f"runs/{_fingerprint(run, config, seed)}.json"
    for folder in filter(None, (run.folder, run.previous_folder)):
        try:
            kept = read_whole(run.fs, f"{folder}/{file}")
        except FileNotFoundError:
            continue
        write_whole(run.fs, f"{run.folder}/{file}", kept)
        return ArmRun(arm, seed, KEPT.validate_json(kept))
    try:
        measured = _measure(f"{arm}, seed {seed}", config, seed, load())
    except Exception as error:  # whatever it is, the other arms are still wanted
        log.warning("%s, seed %d: %s", arm, seed, error, exc_info=not isinstance(error, RayrecError))
        return ArmRun(arm, seed, None, str(error) if isinstance(error, RayrecError) else f"{type(error).__name__}: {error}")
    write_whole(run.fs, f"{run.folder}/{file}", json.dumps(asdict(measured), indent=1).encode())
    return ArmRun(arm, seed, measured)


def _measure(name: str, config: Config, seed: int, data: RankingData) -> Measurement:
    """Train a ranker, and measure it on the test split."""

    def log_epoch(epochs: list[Epoch]) -> None:
        last = epochs[-1]
        log.info("%s: epoch %d, loss %.4f, validation AUC %.4f", name, last.epoch, last.loss, last.metrics[AUC])

    device = device_for(config.training)
    scorer, epochs = train_ranker(data, config.ranker, config.training, seed, device, TrainingCallback(log_epoch))
    gather = HistoryGather(data.clicks, config.ranker.history_length, device)
    found = click_metrics(data.test.user, data.test.clicked, predict(scorer.model, data.test, gather, device))
    log.info("%s: test AUC %.4f, log loss %.4f", name, found["auc"], found["log_loss"])
    return Measurement(
        auc=found["auc"],
        gauc=found["gauc"],
        log_loss=found["log_loss"],
        summary=TrainingSummary.of(epochs, len(data.train)),
        parameters=sum(weights.numel() for weights in scorer.model.parameters()),
        examples=(len(data.train), len(data.validation), len(data.test)),
    )


def _load(run: StageRun, config: Config) -> RankingData:
    return ranking_data(run, config.ranker, config.split)


def _data_settings(config: Config) -> str:
    return json.dumps([getattr(config.ranker, name) for name in OF_THE_DATA])


def _fingerprint(run: StageRun, config: Config, seed: int) -> str:
    """A hash of what the run of an arm depends on: settings, seed, and the versions of the tables."""
    names = [*run.stage.reads, *(name for name in run.stage.may_read if run.workspace.has(name))]
    stages = sorted({tables.spec_of(name).stage for name in names})
    manifests = [run.workspace.manifest(stage) for stage in stages]
    versions = [manifest.version for manifest in manifests if manifest]
    depends = [__version__, seed, versions, *(dump(section) for section in (config.split, config.ranker, config.training))]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


STAGE = Stage("compare", compare, reads=READS, may_read=MAY_READ, settings=settings)
