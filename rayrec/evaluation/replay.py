"""Replays the last days of a log: a ranker predicts a day, learns from it when it is over, and goes on to the next.

Pu et al., "Multimodal Topic Learning for Video Recommendation" (see docs/papers.md), evaluate rankers in this way, since it is how
they live in a service. All days before are the initial training, with early stopping on their newest part. An update goes on with
the optimizer's state (`ranking/warm_start.py`) over what is new alone. A day is predicted with the clicks that were made earlier on
it in the histories, as a service knows them.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import torch

from rayrec.config import Ranker, Replay, Split, Training
from rayrec.config.goals import CLICKED, WATCH_S, WATCH_SHARE
from rayrec.data.context import DAY_MS
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData, prepare
from rayrec.data.negatives import negatives_of_test, with_negatives
from rayrec.data.split import LogSplit, split_rows
from rayrec.data.windows import HistoryGather
from rayrec.ranking.fitting import TrainableRanker, predict, train_ranker
from rayrec.ranking.model import RankingModel
from rayrec.ranking.scorer import Scorer
from rayrec.ranking.warm_start import WarmStart, moments_of
from rayrec.tables import DRAWN_AT, PART_MS, PARTS
from rayrec.training.callbacks import Epoch
from rayrec.training.exchange import SINGLE
from rayrec.training.metrics import click_metrics
from rayrec.training.trainer import CPU, Trainer

SEED = 0  # of the negatives of a day, which are the same for all rankers


@dataclass(frozen=True)
class ReplayedDay:
    """How well a day was predicted by a ranker that had learned from all before it."""

    day: str  # UTC, as 2026-01-31
    impressions: int
    auc: float
    gauc: float
    log_loss: float
    learned: int  # impressions that the ranker learned from since the day before
    seconds: float  # which that took


@dataclass(frozen=True)
class ReplayData:
    """A log in time order, the joined item table and the users' side columns, as `prepare` takes them."""

    interactions: pa.Table
    items: pa.Table
    users: pa.Table | None

    def starts_of_days(self, days: int) -> list[int]:
        """The first rows of the last `days` days. Raises `DataError` for a log without times, or with no day before these."""
        at = self.interactions["shown_at"].to_numpy()
        if len(at) and DRAWN_AT <= at[0] < DRAWN_AT + len(PARTS) * PART_MS:
            raise DataError("replay: the log has no times, so that it can't be replayed day by day")
        starts = np.flatnonzero(np.diff(at // DAY_MS, prepend=-1)).tolist()
        if len(starts) <= days:
            raise DataError(
                f"replay.days: the log has impressions on {len(starts)} days, so that {days} can't be predicted by a ranker that "
                f"has learned from days before; set it to {len(starts) - 1} or fewer"
            )
        return starts[-days:]


def replay(data: ReplayData, ranker: Ranker, training: Training, split: Split, settings: Replay, seed: int) -> list[ReplayedDay]:
    """Go through the last days. `split.validation` is the share of the days before on which early stopping is decided.

    Raises `DataError` as `ReplayData.starts_of_days` and `prepare` do, and `DivergedError`.
    """
    interactions, rows = data.interactions, data.interactions.num_rows
    starts = data.starts_of_days(settings.days)
    at = interactions["shown_at"].to_numpy()
    learned_to = int(np.searchsorted(at, at[split_rows(starts[0], split.model_copy(update={"test": 0.0}))[0]]))
    rate = float(np.mean(interactions["clicked"].slice(0, starts[0]).to_numpy(zero_copy_only=False)))
    now: WarmStart | None = None
    found = []
    for first, last in zip(starts, [*starts[1:], rows], strict=True):
        begin = time.perf_counter()
        # The initial training keeps the newest rows back for validation; the first update learns from these as well.
        train_end = learned_to if now is None else first
        parts = LogSplit(train_end, first, last, int(at[min(train_end, rows - 1)]), int(at[first]))
        base, since = (None, None) if now is None else (now.scorer, now.until)
        known = prepare(interactions.slice(0, last), data.items, data.users, ranker, parts, base, since)
        now = _trained(known, ranker, training, seed) if now is None else _updated(now, known, training, settings.epochs, seed)
        now = WarmStart(now.scorer, now.moments, parts.validation_at)
        seconds, impressions = time.perf_counter() - begin, len(known.test)
        negatives = negatives_of_test(training, known.clicks_only)
        test, _ = with_negatives(known.test, known.clicks, known.encoders.published_at, negatives, SEED)
        probability = predict(now.scorer.model, test, HistoryGather(known.clicks, now.scorer.model.window, CPU), CPU)
        metrics = click_metrics(test.user, test.clicked, probability)
        learned = len(known.train if known.recent is None else known.recent)
        day = f"{datetime.fromtimestamp(at[first] / 1000, UTC):%Y-%m-%d}"
        found.append(ReplayedDay(day, impressions, metrics["auc"], metrics["gauc"], metrics["log_loss"], learned, seconds))
        if settings.learn == "predicted":
            interactions = _with_clicks(interactions, first, likeliest(probability[:impressions], rate), ranker)
    return found


def likeliest(probability: np.ndarray, share: float) -> np.ndarray:
    """Which of these impressions count as clicked: this share of them, those with the highest probabilities; bool [impressions]."""
    clicked = np.zeros(len(probability), dtype=bool)
    clicked[np.argsort(-probability, kind="stable")[: round(share * len(probability))]] = True
    return clicked


def _trained(data: RankingData, ranker: Ranker, training: Training, seed: int) -> WarmStart:
    """The initial ranker, with the optimizer's state of its best epoch."""
    moments: dict[str, torch.Tensor] = {}

    def keep(model: RankingModel, optimizer: torch.optim.Optimizer) -> None:
        moments.update({name: value.clone() for name, value in moments_of(model, optimizer).items()})

    scorer, _ = train_ranker(data, ranker, training, seed, on_best=keep)
    return WarmStart(scorer, moments, 0)


def _updated(before: WarmStart, data: RankingData, training: Training, epochs: int, seed: int) -> WarmStart:
    """The ranker after so many epochs over the recent impressions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer.untrained(before.scorer.settings, data)
    trainable = _Update(scorer.model, data, HistoryGather(data.clicks, scorer.model.window, CPU), training, seed, CPU, SINGLE)
    before.take_over(scorer.model, trainable.optimizer)
    Trainer(epochs=epochs, seed=seed, clip=training.clip).fit(trainable)
    return WarmStart(scorer, moments_of(scorer.model, trainable.optimizer), 0)


class _Update(TrainableRanker):
    """Nothing is held out of an update: the last epoch counts."""

    def validate(self) -> dict[str, float]:
        return {}

    def quality(self, epoch: Epoch) -> float:
        return float(epoch.epoch)


def _with_clicks(interactions: pa.Table, first: int, clicked: np.ndarray, ranker: Ranker) -> pa.Table:
    """The log with other clicks in the rows from `first` on, made when the video was shown, and without labels of other goals."""
    some, last = interactions.slice(first, len(clicked)), first + len(clicked)
    names = {"clicked_at", CLICKED, *(goal.label for goal in ranker.goals.values())}
    names |= {WATCH_S} if WATCH_SHARE in names else set()  # of which the share is made, unless the log has it
    for name in names & set(some.column_names):
        field = some.schema.field(name)
        column = pa.array(clicked) if name == CLICKED else pa.nulls(len(clicked), field.type)
        some = some.set_column(some.column_names.index(name), field, column)
    return pa.concat_tables([interactions.slice(0, first), some, interactions.slice(last)])
