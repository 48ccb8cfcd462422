"""Compares models by the lists that they make of all items: `comparison.measure: lists`.

An arm that sets `collaborative.*` is a collaborative model, and any other a ranker. Where an arm has choices, each is fitted with
the first seed and measured on validation; the best one alone is measured on the test split, with every seed. A model with a closed
form has one seed, because every other gives the same. Popularity is always among the arms.
"""

import functools
import itertools
import logging
import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter

from rayrec import __version__
from rayrec.collaborative import models
from rayrec.collaborative.held_out import Splits
from rayrec.collaborative.model import Fitting
from rayrec.config import Config, ConfigError, dump, with_values
from rayrec.data.shards import EncodedLog
from rayrec.errors import RayrecError
from rayrec.evaluation.comparison import RESULTS, TABLE
from rayrec.evaluation.lists import METRICS, Allowed, ListScorer, measure, one_each, sampled
from rayrec.evaluation.model_table import Measured, ModelRun, model_table, not_better
from rayrec.evaluation.ranked_items import clicks_without, leaving_out, ranker_lists
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.variants import SECTIONS, variant
from rayrec.serving.cluster.connection import reserved_device
from rayrec.stages.compare_clicks import data_settings, ranking_data_of
from rayrec.stages.kept_runs import Failed, Piece, Place, fingerprint, results_of, trainings
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import StageRun
from rayrec.workspace.versions import Workspace

POPULARITY = "popularity"
COLLABORATIVE = "collaborative"

Part = Literal["validation", "test"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A config that an arm may stand for: the one with these choices."""

    config: Config
    chosen: dict[str, Any]

    @property
    def is_ranker(self) -> bool:
        return self.config.collaborative is None

    def seeds(self, seeds: list[int]) -> list[int]:
        settings = self.config.collaborative
        return seeds if settings is None or models.build(settings).epochs else seeds[:1]

    @property
    def settings(self) -> list[Any]:
        """What its fitting depends on."""
        sections = (self.config.split, self.config.ranker, self.config.training)
        collaborative = self.config.collaborative
        return [dump(section) for section in (sections if collaborative is None else (self.config.split, collaborative))]


def compare_lists(run: StageRun) -> None:
    """Raises `RayrecError` when every arm fails."""
    arms, seeds = arms_of(run.config), run.config.comparison.seeds
    tried = [(arm, each, seeds[0]) for arm, candidates in arms.items() if len(candidates) > 1 for each in candidates]
    on_validation = _results(run, tried, "validation")
    best = {}
    for arm, candidates in arms.items():
        measured = [(each, found) for (of, each, _), found in zip(tried, on_validation, strict=True) if of == arm]
        best[arm] = _best(measured, f"ndcg@{run.config.comparison.lists.k[0]}") if measured else candidates[0]
    chosen = [(arm, each, seed) for arm, each in best.items() for seed in each.seeds(seeds)]
    on_test = _results(run, chosen, "test")
    runs = [_model_run(arm, each, seed, found) for (arm, each, seed), found in zip(chosen, on_test, strict=True)]
    _splits.cache_clear()
    ranking_data_of.cache_clear()
    if not any(one.measured for one in runs):
        raise RayrecError(f"compare: no arm could be trained; {runs[0].arm}: {runs[0].reason}")
    trials = [_model_run(arm, each, seed, found) for (arm, each, seed), found in zip(tried, on_validation, strict=True)]
    run.write_file(
        RESULTS, to_json({"test": [asdict(one) for one in runs], "validation": [asdict(one) for one in trials]}, indent=1)
    )
    columns = columns_of(run.config)
    sentences = "".join(f"\n{sentence}\n" for sentence in not_better(runs, POPULARITY, columns))
    run.write_file(TABLE, f"{model_table(runs, columns)}{sentences}\n{_provenance(run)}\n".encode())
    run.count(rows_in=len(runs), rows_out=sum(one.measured is not None for one in runs))


def arms_of(config: Config) -> dict[str, list[Candidate]]:
    """The candidates of each arm, popularity first. Raises `ConfigError` when one of them can't be fitted."""
    comparison = config.comparison
    for arm in comparison.choices:
        if arm not in comparison.arms:
            raise ConfigError(f"comparison.choices.{arm}: there is no such arm; add it to comparison.arms, or remove its choices")
    arms = {POPULARITY: {"collaborative.model": "pop", "collaborative.options": {}}} | comparison.arms
    found = {}
    for arm, values in arms.items():
        choices = comparison.choices.get(arm, {})
        combinations = itertools.product(*choices.values())
        picked = [dict(zip(choices, combination, strict=True)) for combination in combinations]
        found[arm] = [Candidate(_arm_config(config, values | each, f"comparison.arms.{arm}"), each) for each in picked]
    return found


def configs_of(config: Config) -> list[Config]:
    return [each.config for candidates in arms_of(config).values() for each in candidates]


def columns_of(config: Config) -> dict[str, str]:
    """The metrics of the table and their headings: Recall and NDCG at every k, the others at the first."""
    lists = config.comparison.lists
    if lists.negatives is not None:  # with one held-out item, recall is the hit rate
        return {f"{name}@{k}": f"{METRICS[name]}@{k}" for k in lists.k for name in ("hit", "ndcg", "mrr")}
    names = [(name, k) for k in lists.k for name in ("recall", "ndcg")]
    names += [(name, lists.k[0]) for name in ("mrr", "hit", "coverage", "novelty")]
    return {f"{name}@{k}": f"{METRICS[name]}@{k}" for name, k in names}


def _arm_config(config: Config, values: dict[str, Any], source: str) -> Config:
    """The config of an arm; its section `collaborative` is None where the arm is a ranker."""
    sections = {key.split(".")[0] for key in values}
    if not sections & {COLLABORATIVE}:
        return variant(config, values, source).model_copy(update={COLLABORATIVE: None})
    if others := sorted(sections - {COLLABORATIVE}):
        raise ConfigError(
            f"{source}: {others[0]}.* means nothing to a collaborative model; name either collaborative.*, or "
            f"{' and '.join(f'{section}.*' for section in SECTIONS)}"
        )
    changed = with_values(config, values, source)
    assert changed.collaborative is not None
    try:
        models.build(changed.collaborative)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return changed


def _results(run: StageRun, fits: list[tuple[str, Candidate, int]], part: Part) -> list[Measured | Failed]:
    """What was measured of each of these on one part of the log."""
    place, lists = Place.of(run), run.config.comparison.lists
    pieces = {
        fingerprint(run, seed, part, dump(lists), each.settings): Piece(
            f"{arm}, seed {seed}", functools.partial(_measured, place, f"{arm}, seed {seed}", each, seed, part)
        )
        for arm, each, seed in fits
    }
    found = results_of(run, pieces, TypeAdapter(Measured), trainings(run.config, configs_of(run.config)))
    return [found[fingerprint(run, seed, part, dump(lists), each.settings)] for _, each, seed in fits]


def _measured(place: Place, name: str, candidate: Candidate, seed: int, part: Part) -> Measured:
    lists = candidate.config.comparison.lists
    fit = _fitted_ranker if candidate.is_ranker else _fitted_model
    settings = candidate.config.collaborative
    modalities = tuple(models.build(settings).modalities) if settings else ()
    splits = _splits(place, lists.held_out, modalities)
    started = time.monotonic()
    scorer = fit(place, name, candidate.config, seed, splits)
    seconds = time.monotonic() - started
    held_out = splits.feedback.held_out if part == "validation" else splits.test
    allowed: Allowed | None = None
    if lists.negatives is not None:
        known = splits.feedback.likes + splits.feedback.held_out + splits.test
        held_out = one_each(held_out, candidate.config.seed)
        allowed = sampled(held_out, known, lists.negatives, candidate.config.seed)
    clicks_I = splits.feedback.likes.sum(axis=0)
    found = measure(scorer, splits.feedback.likes, held_out, lists.k, allowed).metrics(clicks_I, splits.feedback.users - 1)
    log.info("%s: %s NDCG@%d %.4f, %.1f s", name, part, lists.k[0], found[f"ndcg@{lists.k[0]}"], seconds)
    return Measured(found, seconds)


@functools.lru_cache(maxsize=1)
def _splits(place: Place, held_out: str, modalities: tuple[str, ...]) -> Splits:
    workspace = Workspace(place.workspace)
    read = Splits.of_log if held_out == "split" else Splits.of_last_clicks
    return read(workspace, EncodedLog.open(workspace.fs, place.log), modalities)


def _fitted_model(place: Place, name: str, config: Config, seed: int, splits: Splits) -> ListScorer:
    assert config.collaborative is not None
    model = models.build(config.collaborative)
    model.fit(splits.feedback, Fitting(seed, reserved_device(), callback=_logging(name)))
    return model.scores


def _fitted_ranker(place: Place, name: str, config: Config, seed: int, splits: Splits) -> ListScorer:
    data, device = ranking_data_of(place, data_settings(config)), reserved_device()
    clicks, held_out = data.clicks, config.comparison.lists.held_out
    if held_out == "last_click":
        data = leaving_out(data, splits.feedback.held_out, splits.test)
        clicks = clicks_without(clicks, splits.feedback.held_out + splits.test)
    scorer, _ = train_ranker(data, config.ranker, config.training, seed, device, _logging(name))
    # It knows the clicks that a collaborative model knows.
    end_of_training = int(data.validation.at.min() if held_out == "split" else clicks.times.max() + 1)
    return ranker_lists(scorer.model, clicks, end_of_training, len(data.context_encoder.fields), device)


def _logging(name: str) -> TrainingCallback:
    def log_epoch(epochs: list[Epoch]) -> None:
        last = epochs[-1]
        metrics = ", ".join(f"{metric.replace('_', ' ')} {value:.4f}" for metric, value in last.metrics.items())
        log.info("%s: epoch %d, loss %.4f, %s", name, last.epoch, last.loss, metrics)

    return TrainingCallback(log_epoch)


def _best(measured: list[tuple[Candidate, Measured | Failed]], metric: str) -> Candidate:
    """The candidate with the highest metric, the first of equals; those that failed come last."""
    return max(measured, key=lambda pair: -1.0 if isinstance(pair[1], Failed) else np.nan_to_num(pair[1].metrics[metric], nan=-1))[
        0
    ]


def _model_run(arm: str, candidate: Candidate, seed: int, found: Measured | Failed) -> ModelRun:
    if isinstance(found, Failed):
        return ModelRun(arm, seed, None, found.reason, candidate.chosen)
    return ModelRun(arm, seed, found, "", candidate.chosen)


def _provenance(run: StageRun) -> str:
    """How the table was made, as a line of Markdown."""
    lists = run.config.comparison.lists
    among = "all items" if lists.negatives is None else f"{lists.negatives} sampled items that the user never clicked"
    held_out = "the test split" if lists.held_out == "split" else "each user's last click"
    return (
        f"`rayrec compare`, {time.strftime('%Y-%m-%d')}, rayrec {__version__}, {os.cpu_count()} CPU cores; data set "
        f"`{run.config.dataset.kind}`. Of {held_out}, ranked among {among} without those that the user clicked in training. Mean ± "
        "standard deviation over the seeds; a model with a closed form has one. Seconds are those of the fitting."
    )
