"""Compares models by the ratings that they predict: `comparison.measure: ratings`.

Candidates are fitted to the ratings of the training split and chosen by the RMSE of the validation split. The best one learns from
both, and its predictions are measured on the test split. `rating_bias` is always among the arms.
"""

import functools
import logging
import os
import time
from dataclasses import replace
from typing import Any

from rayrec import __version__
from rayrec.collaborative import models
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.rating_log import read_ratings
from rayrec.collaborative.rating_model import RatingModel
from rayrec.config import Config, ConfigError, Split
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.evaluation.comparison import TABLE
from rayrec.evaluation.model_table import Measured, model_table, not_better
from rayrec.evaluation.ratings import METRICS, by_training_ratings, rating_metrics
from rayrec.serving.cluster.connection import reserved_device
from rayrec.stages.candidates import (
    Candidate,
    Part,
    candidates_of,
    chosen_on_validation,
    collaborative_config,
    logging_epochs,
)
from rayrec.stages.kept_runs import Place
from rayrec.workspace.stage import StageRun
from rayrec.workspace.versions import Workspace

RATING_BIAS = "rating_bias"

log = logging.getLogger(__name__)


def compare_ratings(run: StageRun) -> None:
    """Raises `RayrecError` when every arm fails."""
    runs = chosen_on_validation(run, arms_of(run.config), "rmse", _measured)
    _feedback.cache_clear()
    sentences = "".join(f"\n{sentence}\n" for sentence in not_better(runs, RATING_BIAS, METRICS))
    text = f"{model_table(runs, METRICS)}{sentences}\n{_provenance(run)}\n"
    found = [replace(one, chosen={}) for one in runs if one.measured]  # the table above says what was chosen, and what failed
    names = list(dict.fromkeys(name for one in runs if one.measured for name in one.measured.metrics))
    for side in ("users", "items"):
        prefix = f"rmse@{side} "
        parts = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        text += f"\nRMSE by how many ratings training has of the {side}:\n\n{model_table(found, parts)}"
    run.write_file(TABLE, text.encode())


def arms_of(config: Config) -> dict[str, list[Candidate]]:
    """The candidates of each arm, `rating_bias` first. Raises `ConfigError` when one of them can't be fitted."""
    return candidates_of(config, {RATING_BIAS: {"collaborative.model": RATING_BIAS, "collaborative.options": {}}}, _arm_config)


def configs_of(config: Config) -> list[Config]:
    return [each.config for candidates in arms_of(config).values() for each in candidates]


def _arm_config(config: Config, values: dict[str, Any], source: str) -> Config:
    for key in values:
        if key.split(".")[0] != "collaborative":
            raise ConfigError(f"{source}: {key} means nothing to a model of ratings; name collaborative.model and its options")
    changed = collaborative_config(config, values, source)
    assert changed.collaborative is not None
    if not isinstance(models.build(changed.collaborative), RatingModel):
        raise ConfigError(f"{source}: {changed.collaborative.model!r} predicts no ratings; name a model that does, such as bpmf")
    return changed


def _measured(place: Place, name: str, candidate: Candidate, seed: int, part: Part) -> Measured:
    assert candidate.config.collaborative is not None
    model = models.build(candidate.config.collaborative)
    assert isinstance(model, RatingModel)
    feedback = _feedback(place, candidate.config.split.model_dump_json(), part)
    data = feedback.ratings
    assert data is not None
    started = time.monotonic()
    model.fit(feedback, Fitting(seed, reserved_device(), callback=logging_epochs(name)))
    seconds = time.monotonic() - started
    predicted_N = model.predict(data.held_out.user, data.held_out.item)
    found = rating_metrics(data.held_out.rating, predicted_N)
    log.info("%s: %s RMSE %.4f, %.1f s", name, part, found["rmse"], seconds)
    for side, parts in by_training_ratings(data, predicted_N).items():
        found |= {f"rmse@{side} {label}": metrics["rmse"] for label, metrics in parts.items()}
    return Measured(found, seconds)


@functools.lru_cache(maxsize=1)
def _feedback(place: Place, split: str, part: Part) -> Feedback:
    workspace = Workspace(place.workspace)
    pieces = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
    encoded = EncodedLog.open(workspace.fs, place.log)
    return Feedback.of_ratings(read_ratings(workspace, pieces, encoded, Split.model_validate_json(split), part))


def _provenance(run: StageRun) -> str:
    """How the table was made, as a line of Markdown."""
    return (
        f"`rayrec compare`, {time.strftime('%Y-%m-%d')}, rayrec {__version__}, {os.cpu_count()} CPU cores; data set "
        f"`{run.config.dataset.kind}`. Ratings of the test split, predicted from all before it. Mean ± standard deviation over the "
        "seeds; a model with a closed form has one. Seconds are those of the fitting."
    )
