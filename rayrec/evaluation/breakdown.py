"""Click metrics by the length of the user's history and with a modality removed (short-video CTR paper, see docs/papers.md).

Also of videos that the ranker has never seen.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from rayrec.data.examples import Examples
from rayrec.data.fields import FieldTable
from rayrec.data.history import ClickHistory
from rayrec.ranking.scorer import Scorer
from rayrec.training.metrics import basic_metrics

MAX_CLICKS = [10, 15, 20, 25, 30, 35]  # of each part except the last
ID = "video_id"
PARTS = ["<=10", *(f"{low + 1}-{high}" for low, high in pairwise(MAX_CLICKS)), ">35"]


def history_lengths(clicks: ClickHistory, examples: Examples) -> np.ndarray:
    """The number of clicks of each example's user before it, which may be more than a model reads: int64 [examples]."""
    return examples.end - clicks.offsets[examples.user]


def by_history(length: np.ndarray, clicked: np.ndarray, probability: np.ndarray) -> dict[str, dict[str, float]]:
    """Impressions, AUC, log loss and accuracy for each of the `PARTS` that has impressions."""
    part = np.searchsorted(MAX_CLICKS, length)
    rows = {name: np.flatnonzero(part == number) for number, name in enumerate(PARTS)}
    return {
        name: {"impressions": len(found), **basic_metrics(clicked[found], probability[found])}
        for name, found in rows.items()
        if len(found)
    }


def without_modality(scorer: Scorer, name: str) -> Scorer:
    """The same trained ranker over items that all lack this modality. Its weights stay as they are."""
    vectors = scorer.items.vectors
    return _over(scorer, replace(scorer.items, vectors=vectors | {name: torch.zeros_like(vectors[name])}))


def without_ids(scorer: Scorer) -> Scorer:
    """The same trained ranker over the same items as if all of them had come after the training: it knows their content alone."""
    categorical = scorer.items.categorical
    return _over(scorer, replace(scorer.items, categorical=categorical | {ID: torch.zeros_like(categorical[ID])}))


def seen_in_training(scorer: Scorer) -> np.ndarray:
    """Which items training has seen: bool [I]."""
    return scorer.items.categorical[ID].cpu().numpy() > 0


def by_novelty(seen: np.ndarray, clicked: np.ndarray, probability: np.ndarray, without: np.ndarray) -> dict[str, dict[str, float]]:
    """Impressions, AUC, log loss and accuracy of the videos that training has seen (a mask of the impressions), and of the others.

    `without` are the predictions of all impressions by `without_ids`. A part without impressions is left out.
    """
    parts = {"seen": (seen, probability), "unseen": (~seen, probability), "seen, ids hidden": (seen, without)}
    return {
        name: {"impressions": int(rows.sum()), **basic_metrics(clicked[rows], values[rows])}
        for name, (rows, values) in parts.items()
        if rows.any()
    }


def _over(scorer: Scorer, items: FieldTable) -> Scorer:
    """The same trained ranker over other items; its weights stay as they are."""
    return scorer.over(items, scorer.popularity)
