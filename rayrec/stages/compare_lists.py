"""Compares models by the lists that they make of all items: `comparison.measure: lists`.

An arm that sets `collaborative.*` is a collaborative model, and any other a ranker. Popularity is always among the arms.
"""

import functools
import itertools
import logging
import os
import time
from typing import Any

from rayrec import __version__
from rayrec.collaborative import models
from rayrec.collaborative.held_out import HeldOut, Splits
from rayrec.collaborative.model import Fitting
from rayrec.config import Config, ConfigError, dump
from rayrec.data.shards import EncodedLog
from rayrec.evaluation.comparison import PICTURE, TABLE
from rayrec.evaluation.lists import METRICS, ListScorer
from rayrec.evaluation.model_table import Measured, model_table, not_better, picture
from rayrec.evaluation.ranked_items import clicks_without, leaving_out, ranker_lists
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.variants import SECTIONS, variant
from rayrec.serving.cluster.connection import reserved_device
from rayrec.stages.candidates import (
    Candidate,
    Part,
    candidates_of,
    chosen_on_validation,
    collaborative_config,
    logging_epochs,
)
from rayrec.stages.compare_clicks import data_settings, ranking_data_of
from rayrec.stages.kept_runs import Place
from rayrec.stages.list_shares import totals_of, totals_of_model
from rayrec.workspace.stage import StageRun
from rayrec.workspace.versions import Workspace

POPULARITY = "popularity"
COLLABORATIVE = "collaborative"

log = logging.getLogger(__name__)


def compare_lists(run: StageRun) -> None:
    """Raises `RayrecError` when every arm fails."""
    lists = run.config.comparison.lists
    runs = chosen_on_validation(run, arms_of(run.config), f"ndcg@{lists.k[0]}", _measured, dump(lists))
    _splits.cache_clear()
    ranking_data_of.cache_clear()
    columns = columns_of(run.config)
    sentences = "".join(f"\n{sentence}\n" for sentence in not_better(runs, POPULARITY, columns))
    run.write_file(TABLE, f"{model_table(runs, columns)}{sentences}\n{_provenance(run)}\n".encode())
    run.write_file(PICTURE, picture(runs, dict(itertools.islice(columns.items(), 2))))


def arms_of(config: Config) -> dict[str, list[Candidate]]:
    """The candidates of each arm, popularity first. Raises `ConfigError` when one of them can't be fitted."""
    return candidates_of(config, {POPULARITY: {"collaborative.model": "pop", "collaborative.options": {}}}, _arm_config)


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
    return collaborative_config(config, values, source)


def _measured(place: Place, name: str, candidate: Candidate, seed: int, part: Part) -> Measured:
    config, lists = candidate.config, candidate.config.comparison.lists
    settings = config.collaborative
    splits = _splits(place, lists.held_out, tuple(models.build(settings).modalities) if settings else ())
    started = time.monotonic()
    if settings is None:
        scorer = _fitted_ranker(place, name, config, seed, splits)
        seconds = time.monotonic() - started
        totals = totals_of(scorer, splits, lists, part, config.seed)
    else:
        model = models.build(settings)
        model.fit(splits.feedback, Fitting(seed, reserved_device(), callback=logging_epochs(name)))
        seconds = time.monotonic() - started
        totals = totals_of_model(place, config, model, splits, part)
    found = totals.metrics(splits.feedback.likes.sum(axis=0), splits.feedback.users - 1)
    log.info("%s: %s NDCG@%d %.4f, %.1f s", name, part, lists.k[0], found[f"ndcg@{lists.k[0]}"], seconds)
    return Measured(found, seconds)


@functools.lru_cache(maxsize=1)
def _splits(place: Place, held_out: HeldOut, modalities: tuple[str, ...]) -> Splits:
    workspace = Workspace(place.workspace)
    return Splits.read(workspace, EncodedLog.open(workspace.fs, place.log), held_out, modalities)


def _fitted_ranker(place: Place, name: str, config: Config, seed: int, splits: Splits) -> ListScorer:
    data, device = ranking_data_of(place, data_settings(config)), reserved_device()
    clicks, held_out = data.clicks, config.comparison.lists.held_out
    if held_out == "last_click":
        data = leaving_out(data, splits.feedback.held_out, splits.test)
        clicks = clicks_without(clicks, splits.feedback.held_out + splits.test)
    scorer, _ = train_ranker(data, config.ranker, config.training, seed, device, logging_epochs(name))
    # It knows the clicks that a collaborative model knows.
    end_of_training = int(data.validation.at.min() if held_out == "split" else clicks.times.max() + 1)
    return ranker_lists(scorer.model, clicks, end_of_training, len(data.context_encoder.fields), device)


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
