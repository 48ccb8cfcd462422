"""Each day is predicted by a ranker that has learned from all before it, and from nothing later."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from rayrec.config import Ranker, Replay, Split, Training
from rayrec.data.context import DAY_MS
from rayrec.data.errors import DataError
from rayrec.data.loading import prepare
from rayrec.data.split import LogSplit
from rayrec.data.windows import HistoryGather
from rayrec.evaluation.replay import ReplayData, ReplayedDay, likeliest, replay
from rayrec.ranking.fitting import predict, train_ranker
from rayrec.tables import DRAWN_AT
from rayrec.training.trainer import CPU
from tests.training.small_log import GOALS, catalog, interactions, with_labels

DAYS, PER_DAY = 5, 800
RANKER = Ranker(model="fm", embedding_size=4, history_length=5)
TRAINING = Training(epochs=3, batch_size=128, learning_rate=0.02)
SPLIT = Split(validation=0.2, test=0.2)
MONDAY = 20_000 * DAY_MS  # 2024-10-04


def days_of_log(days: int = DAYS) -> ReplayData:
    log = interactions(days * PER_DAY)
    at = MONDAY + np.arange(days * PER_DAY) * (DAY_MS // PER_DAY)
    log = log.set_column(2, "shown_at", pa.array(at)).append_column("clicked_at", pa.array(at + 1000))
    return ReplayData(log, catalog(), None)


def replayed(data: ReplayData, **settings: object) -> list[ReplayedDay]:
    return replay(data, RANKER, TRAINING, SPLIT, Replay.model_validate({"days": 3} | settings), 1)


@pytest.fixture(scope="module")
def real() -> list[ReplayedDay]:
    return replayed(days_of_log(), learn="real")


def test_days_follow_one_another_and_learn_all_before(real: list[ReplayedDay]) -> None:
    assert [day.day for day in real] == ["2024-10-06", "2024-10-07", "2024-10-08"]
    assert [day.impressions for day in real] == [PER_DAY] * 3
    before = 2 * PER_DAY
    kept_back = int(before * SPLIT.validation)
    assert [day.learned for day in real] == [before - kept_back, kept_back + PER_DAY, PER_DAY]
    assert min(day.auc for day in real) > 0.6
    assert real[0].auc < real[-1].auc


def test_the_first_day_is_predicted_as_by_a_ranker_that_is_trained_on_the_days_before(real: list[ReplayedDay]) -> None:
    data, first = days_of_log(), 2 * PER_DAY
    cut = first - int(first * SPLIT.validation)
    at = data.interactions["shown_at"].to_numpy()
    split = LogSplit(cut, first, first + PER_DAY, int(at[cut]), int(at[first]))
    known = prepare(data.interactions.slice(0, first + PER_DAY), data.items, None, RANKER, split)
    scorer, _ = train_ranker(known, RANKER, TRAINING, 1)
    probability = predict(scorer.model, known.test, HistoryGather(known.clicks, scorer.model.window, CPU), CPU)
    assert real[0].auc == pytest.approx(roc_auc_score(known.test.clicked, probability), abs=1e-6)


def test_no_day_knows_a_later_one(real: list[ReplayedDay]) -> None:
    """Other clicks on the last day change nothing on the days before."""
    data, last = days_of_log(), (DAYS - 1) * PER_DAY
    clicked = data.interactions["clicked"].to_numpy(zero_copy_only=False).copy()
    clicked[last:] = ~clicked[last:]
    other = ReplayData(data.interactions.set_column(3, "clicked", pa.array(clicked)), data.items, None)
    found = replayed(other, learn="real")
    for one, another in pairwise([real[:-1], found[:-1]]):
        assert [day.auc for day in one] == [day.auc for day in another]
    assert found[-1].auc < 0.5 < real[-1].auc


def test_predicted_clicks_are_learned_in_place_of_the_real_ones(real: list[ReplayedDay]) -> None:
    """Of the last day that is learned, the log may hold anything then."""
    data, first = days_of_log(), 3 * PER_DAY
    predicted = replayed(data)
    assert predicted[0].auc == real[0].auc
    assert predicted[1].auc != real[1].auc
    clicked = data.interactions["clicked"].to_numpy(zero_copy_only=False).copy()
    # A day whose clicks are all wrong is predicted badly, but what is learned of it are the ranker's own clicks. Only its histories
    # within the day differ, which `fm` does not read.
    clicked[first - PER_DAY : first] = ~clicked[first - PER_DAY : first]
    ranker = RANKER.model_copy(update={"history_connection": "none"})
    settings = Replay(days=3)
    plain, wrong = (
        replay(ReplayData(log, data.items, None), ranker, TRAINING, SPLIT, settings, 1)
        for log in (data.interactions, data.interactions.set_column(3, "clicked", pa.array(clicked)))
    )
    assert wrong[0].auc == pytest.approx(1 - plain[0].auc, abs=1e-6)
    assert wrong[1:] == [
        day.__class__(**{**vars(day), "seconds": other.seconds}) for day, other in zip(plain[1:], wrong[1:], strict=True)
    ]


@pytest.mark.parametrize("watched", ["watch_s", "watch_share"])  # a log may have the share itself
def test_what_was_liked_on_a_day_of_predicted_clicks_is_not_known(watched: str) -> None:
    """A ranker would otherwise be told by the seconds what was really clicked."""
    goals = GOALS | {"finish": {"label": "watch_share", "at_least": 0.5}}
    ranker = Ranker.model_validate(RANKER.model_dump() | {"model": "emlp", "hidden": [8], "goals": goals})
    plain = days_of_log()
    lengths = catalog().append_column("duration_s", pa.array([10.0] * catalog().num_rows, pa.float32()))
    log = with_labels(plain.interactions)
    if watched == "watch_share":
        log = log.append_column(watched, pa.array(log["watch_s"].to_numpy() / 10))
    later = np.arange(log.num_rows) >= 3 * PER_DAY
    longer = np.where(later, 9 if watched == "watch_s" else 0.9, log[watched].to_numpy())
    other = log.set_column(log.column_names.index(watched), watched, pa.array(longer).cast(log[watched].type)).set_column(
        log.column_names.index("liked"), "liked", pa.array(later | log["liked"].to_numpy())
    )

    def found(log: pa.Table, learn: str) -> list[float]:
        settings, training = Replay.model_validate({"days": 2, "learn": learn}), TRAINING.model_copy(update={"epochs": 1})
        return [day.log_loss for day in replay(ReplayData(log, lengths, None), ranker, training, SPLIT, settings, 1)]

    assert found(other, "predicted") == found(log, "predicted")
    first, *rest = zip(found(other, "real"), found(log, "real"), strict=True)
    assert first[0] == first[1]
    assert all(one != another for one, another in rest)


def test_the_likeliest_impressions_count_as_clicked() -> None:
    assert likeliest(np.array([0.1, 0.9, 0.5, 0.9]), 0.5).tolist() == [False, True, False, True]
    assert likeliest(np.array([0.3, 0.3, 0.3, 0.3]), 0.25).tolist() == [True, False, False, False]
    assert not likeliest(np.array([0.3]), 0.0).any()


def test_what_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(DataError, match=r"replay.days: the log has impressions on 2 days, .* set it to 1 or fewer"):
        replayed(days_of_log(2))
    drawn = days_of_log()
    times = pc.add(pc.subtract(drawn.interactions["shown_at"], MONDAY), DRAWN_AT)
    without = ReplayData(drawn.interactions.set_column(2, "shown_at", times), drawn.items, None)
    with pytest.raises(DataError, match="the log has no times"):
        replayed(without)
