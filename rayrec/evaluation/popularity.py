"""Popularity as a ranker of its own: what every trained ranker has to beat.

A video is as popular as its click rate, its clicks, or its clicks of late says. Which of them is the strongest depends on the log,
so all are measured. Where the log has clicks alone, every click rate is 1, and is left out.

Shapes: I items, which include item 0.
"""

import numpy as np
import torch

from rayrec.data.popularity import DailyCounts, FadingCounts
from rayrec.evaluation.pages import Counters
from rayrec.ranking.popularity import Popularity
from rayrec.training.metrics import auc, click_metrics, gauc

CLICK_RATE, CLICKS, RECENT_CLICKS = "popularity: click rate", "popularity: clicks", "popularity: recent clicks"
NAMES = (CLICK_RATE, CLICKS, RECENT_CLICKS)
HALF_LIFE = 14.0  # days, of the recent clicks; the best of .5 to 60 on the validation split of MovieLens 100K
PRIOR = 10  # exposures with the click rate of all, which every video has on top of its own


def click_rate(exposures: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """Each item's click rate, smoothed towards that of all with the weight of ten exposures: float [I]."""
    mean = clicks.sum() / max(exposures.sum(), 1)
    return (clicks + PRIOR * mean) / (exposures + PRIOR)


def recent_clicks(daily: DailyCounts, items: int, item: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How much each item was clicked before each time (UTC ms), in comparison with the others: float32 [pairs]."""
    known = Popularity(FadingCounts.of(daily, [HALF_LIFE], items), 1)
    numbers = known.numbers(torch.from_numpy(at.astype(np.int64)), torch.from_numpy(item.astype(np.int64))[:, None])
    return numbers[:, 0, 0].numpy()


def item_scores(counters: Counters, daily: DailyCounts, at: int, clicks_only: bool) -> dict[str, np.ndarray]:
    """A score for each item by each kind of popularity, as it is known at a time (UTC ms): float [I]."""
    items = len(counters.clicks)
    lately = recent_clicks(daily.before(at), items, np.arange(items), np.full(items, at))
    found = {CLICK_RATE: click_rate(counters.exposures, counters.clicks), CLICKS: counters.clicks, RECENT_CLICKS: lately}
    return {name: score for name, score in found.items() if name != CLICK_RATE or not clicks_only}


def popularity_metrics(user: np.ndarray, clicked: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """The click metrics of scores of impressions. Numbers of clicks are no probabilities: what needs those is NaN."""
    measured = {name: click_metrics(user, clicked, score) for name, score in scores.items() if name == CLICK_RATE}
    undefined = dict.fromkeys(("log_loss", "accuracy", "calibration_error", "predicted_to_observed"), float("nan"))
    for name in scores.keys() - measured.keys():
        measured[name] = {"auc": auc(clicked, scores[name]), "gauc": gauc(user, clicked, scores[name])} | undefined
    return {name: measured[name] for name in scores}


def strongest(metrics: dict[str, dict[str, float]], metric: str) -> tuple[str, float]:
    """The kind of popularity that is the best by a metric, and its value; NaN where no kind has one."""
    found = {name: metrics[name][metric] for name in NAMES if name in metrics and np.isfinite(metrics[name][metric])}
    if not found:
        return NAMES[-1], float("nan")
    name = (min if metric == "log_loss" else max)(found, key=lambda name: found[name])
    return name, found[name]
