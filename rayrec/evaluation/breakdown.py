"""Click metrics of parts of the test split: by how much was known of the user, and with a modality taken away (SOURCES A)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from rayrec.data.examples import Examples
from rayrec.data.loading import RankingData
from rayrec.ranking.scorer import Scorer
from rayrec.training.metrics import basic_metrics

MAX_CLICKS = [10, 15, 20, 25, 30, 35]  # of each part but the last
PARTS = ["<=10", *(f"{low + 1}-{high}" for low, high in pairwise(MAX_CLICKS)), ">35"]


def history_lengths(data: RankingData, examples: Examples) -> np.ndarray:
    """The clicks of each example's user before it, more than a model looks at perhaps: int64 [examples]."""
    return examples.end - data.clicks.offsets[examples.user]


def by_history(length: np.ndarray, clicked: np.ndarray, probability: np.ndarray) -> dict[str, dict[str, float]]:
    """Impressions, AUC, log loss and accuracy for each part of `PARTS` that has impressions."""
    part = np.searchsorted(MAX_CLICKS, length)
    rows = {name: np.flatnonzero(part == number) for number, name in enumerate(PARTS)}
    return {
        name: {"impressions": len(there), **basic_metrics(clicked[there], probability[there])}
        for name, there in rows.items()
        if len(there)
    }


def without_modality(scorer: Scorer, name: str) -> Scorer:
    """The same trained ranker, to which this modality is missing in every video. What it has learned stays."""
    vectors = scorer.items.vectors
    items = replace(scorer.items, vectors=vectors | {name: torch.zeros_like(vectors[name])})
    encoders = scorer.user_encoder, scorer.item_encoder, scorer.context_encoder
    blind = Scorer.build(scorer.settings, *encoders, scorer.users, items)
    blind.model.load_state_dict(scorer.model.state_dict())  # the tables are no part of it
    return blind.to(scorer.device)
