"""What `compare` tries of each arm, chooses on validation, and then measures once on the test split.

Where an arm has choices (`comparison.choices`), each is fitted with the first seed and measured on validation; the best one alone
is measured on the test split, with every seed. A model with a closed form has one seed, because every other gives the same.
"""

import functools
import itertools
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from rayrec.collaborative import models
from rayrec.config import Config, ConfigError, dump, with_values
from rayrec.errors import RayrecError
from rayrec.evaluation.comparison import RESULTS
from rayrec.evaluation.model_table import LOWER_IS_BETTER, Measured, ModelRun
from rayrec.evaluation.trials import in_words
from rayrec.stages.kept_runs import Failed, Piece, Place, fingerprint, results_of, trainings
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import StageRun

Part = Literal["validation", "test"]
# The config of an arm from that of the comparison, the values that the arm changes, and how errors name them.
ArmConfig = Callable[[Config, dict[str, Any], str], Config]

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


# Fits a candidate with a seed and measures it on one part of the log; the text is what the log calls it.
Measure = Callable[[Place, str, Candidate, int, Part], Measured]


def candidates_of(config: Config, baseline: dict[str, dict[str, Any]], arm_config: ArmConfig) -> dict[str, list[Candidate]]:
    """The candidates of each arm, the baseline first. Raises `ConfigError` when one of them can't be fitted."""
    comparison = config.comparison
    for arm in comparison.choices:
        if arm not in comparison.arms:
            raise ConfigError(f"comparison.choices.{arm}: there is no such arm; add it to comparison.arms, or remove its choices")
    found = {}
    for arm, values in (baseline | comparison.arms).items():
        choices = comparison.choices.get(arm, {})
        combinations = itertools.product(*choices.values())
        picked = [dict(zip(choices, combination, strict=True)) for combination in combinations]
        found[arm] = [Candidate(arm_config(config, values | each, f"comparison.arms.{arm}"), each) for each in picked]
    return found


def collaborative_config(config: Config, values: dict[str, Any], source: str) -> Config:
    """The config of an arm whose values are of the section `collaborative`. Raises `ConfigError` for a model that is not there."""
    changed = with_values(config, values, source)
    assert changed.collaborative is not None
    try:
        models.build(changed.collaborative)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return changed


def chosen_on_validation(
    run: StageRun, arms: dict[str, list[Candidate]], metric: str, measure: Measure, *depends: Any
) -> list[ModelRun]:
    """Every arm on the test split, and all runs as JSON in the stage's folder. Candidates are chosen by the metric.

    `depends` are plain values on which `measure` depends, beside a candidate's settings. Raises `RayrecError` when every arm fails.
    """
    seeds = run.config.comparison.seeds
    tried = [(arm, each, seeds[0]) for arm, candidates in arms.items() if len(candidates) > 1 for each in candidates]
    on_validation = _results(run, arms, tried, "validation", measure, depends)
    best = {}
    for arm, candidates in arms.items():
        measured = [(each, found) for (of, each, _), found in zip(tried, on_validation, strict=True) if of == arm]
        best[arm] = _best(measured, metric) if measured else candidates[0]
    chosen = [(arm, each, seed) for arm, each in best.items() for seed in each.seeds(seeds)]
    on_test = _results(run, arms, chosen, "test", measure, depends)
    runs = [_model_run(arm, each, seed, found) for (arm, each, seed), found in zip(chosen, on_test, strict=True)]
    if not any(one.measured for one in runs):
        raise RayrecError(f"compare: no arm could be trained; {runs[0].arm}: {runs[0].reason}")
    trials = [_model_run(arm, each, seed, found) for (arm, each, seed), found in zip(tried, on_validation, strict=True)]
    everything = {"test": [asdict(one) for one in runs], "validation": [asdict(one) for one in trials]}
    run.write_file(RESULTS, to_json(everything, indent=1))
    run.count(rows_in=len(runs), rows_out=sum(one.measured is not None for one in runs))
    return runs


def logging_epochs(name: str) -> TrainingCallback:
    """Logs each epoch of the training of this name."""

    def log_epoch(epochs: list[Epoch]) -> None:
        last = epochs[-1]
        metrics = "".join(f", {metric.replace('_', ' ')} {value:.4f}" for metric, value in last.metrics.items())
        log.info("%s: epoch %d, loss %.4f%s", name, last.epoch, last.loss, metrics)

    return TrainingCallback(log_epoch)


def _results(
    run: StageRun,
    arms: dict[str, list[Candidate]],
    fits: list[tuple[str, Candidate, int]],
    part: Part,
    measure: Measure,
    depends: tuple[Any, ...],
) -> list[Measured | Failed]:
    """What was measured of each of these on one part of the log."""
    place = Place.of(run)
    names = [f"{arm}, seed {seed}" + (f", {in_words(each.chosen)}" if each.chosen else "") for arm, each, seed in fits]
    keys = [fingerprint(run, seed, part, *depends, each.settings) for _, each, seed in fits]
    pieces = {
        key: Piece(name, functools.partial(measure, place, name, each, seed, part))
        for key, name, (_, each, seed) in zip(keys, names, fits, strict=True)
    }
    configs = [each.config for candidates in arms.values() for each in candidates]
    found = results_of(run, pieces, TypeAdapter(Measured), trainings(run.config, configs, run.config.comparison.concurrent))
    return [found[key] for key in keys]


def _best(measured: list[tuple[Candidate, Measured | Failed]], metric: str) -> Candidate:
    """The candidate with the best metric, the first of equals; those that failed come last."""
    sign = -1 if metric in LOWER_IS_BETTER else 1

    def quality(found: Measured | Failed) -> float:
        value = float("nan") if isinstance(found, Failed) else sign * found.metrics[metric]
        return value if value == value else float("-inf")

    return max(measured, key=lambda pair: quality(pair[1]))[0]


def _model_run(arm: str, candidate: Candidate, seed: int, found: Measured | Failed) -> ModelRun:
    if isinstance(found, Failed):
        return ModelRun(arm, seed, None, found.reason, candidate.chosen)
    return ModelRun(arm, seed, found, "", candidate.chosen)
