"""Click metrics by the length of the user's history and with a modality removed (short-video CTR paper, see docs/papers.md)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from rayrec.data.examples import Examples
from rayrec.data.history import ClickHistory
from rayrec.ranking.scorer import Scorer
from rayrec.training.metrics import basic_metrics

MAX_CLICKS = [10, 15, 20, 25, 30, 35]  # of each part except the last
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
    items = replace(scorer.items, vectors=vectors | {name: torch.zeros_like(vectors[name])})
    encoders = scorer.user_encoder, scorer.item_encoder, scorer.context_encoder
    changed = Scorer.build(scorer.settings, *encoders, scorer.users, items)
    changed.model.load_state_dict(scorer.model.state_dict())  # the tables are not part of it
    return changed.to(scorer.device)
