"""The loop learns what is there, stops early, restores the best epoch, and repeats itself for the same seed."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Ranker, Split, Training
from rayrec.ranking.examples import join_items, prepare
from rayrec.ranking.history import HistoryGather
from rayrec.ranking.scorer import Scorer
from rayrec.training.loop import DivergedError, Epoch, fit, predict
from rayrec.training.metrics import auc
from rayrec.workers import ALONE, Worker

CPU = torch.device("cpu")
RANKER = Ranker(embedding_size=8, hidden=[16], history_length=10, id_dropout=0.0, dropout=0.0)


@pytest.fixture(scope="module")
def data():
    """Users who click the videos of one topic each, in nine of ten cases."""
    rng = np.random.default_rng(0)
    videos, users, rows = 60, 40, 6000
    user, video = rng.integers(0, users, rows), rng.integers(0, videos, rows)
    clicked = rng.random(rows) < np.where(video % 4 == user % 4, 0.9, 0.1)
    ids = [f"v{i}" for i in range(videos)]
    topics = pa.table({"video_id": ids, "topics": pa.array([[i % 4] for i in range(videos)], pa.list_(pa.int32()))})
    log = pa.table(
        {"user_id": [f"u{i}" for i in user], "video_id": [f"v{i}" for i in video], "shown_at": np.arange(rows), "clicked": clicked}
    )
    return prepare(log, join_items(pa.table({"video_id": ids}), topics, None, []), None, RANKER, Split(validation=0.1, test=0.2))


def trained(data, worker=ALONE, **training):
    torch.manual_seed(0)
    scorer = Scorer.build(RANKER, data.user_encoder, data.item_encoder, data.users, data.items)
    seen: list[Epoch] = []
    settings = Training(**{"epochs": 6, "batch_size": 128, "learning_rate": 5e-3} | training)
    epochs = fit(scorer.model, data, RANKER.history_length, settings, 1, CPU, seen.append, worker)
    assert epochs == seen
    return scorer.model, epochs


def test_it_learns_whom_to_show_what(data):
    model, epochs = trained(data)
    found = auc(data.test.clicked, predict(model, data.test, HistoryGather(data.clicks, RANKER.history_length, CPU), CPU))
    matches = [
        int(data.items.ids[i][1:]) % 4 == int(data.users.ids[u][1:]) % 4
        for u, i in zip(data.test.user, data.test.item, strict=True)
    ]
    best = auc(data.test.clicked, np.where(matches, 0.9, 0.1))
    assert best - 0.05 < found <= best + 0.01
    assert epochs[-1].loss < epochs[0].loss


def test_the_best_epoch_is_restored_and_waiting_ends(data):
    model, epochs = trained(data, epochs=40, learning_rate=0.05, patience=2)
    best = max(epochs, key=lambda epoch: epoch.validation_auc)
    assert len(epochs) == best.epoch + 2 < 40
    again = predict(model, data.validation, HistoryGather(data.clicks, RANKER.history_length, CPU), CPU)
    assert auc(data.validation.clicked, again) == pytest.approx(best.validation_auc)


def test_the_same_seed_gives_the_same_weights(data):
    first, second = (trained(data, epochs=2)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_workers_share_the_examples(data):
    _, epochs = trained(data, worker=Worker(rank=1, count=2), epochs=1)
    assert np.isfinite(epochs[0].loss)


def test_divergence_is_an_error_that_says_what_to_change(data):
    broken = torch.nn.Parameter(torch.tensor(float("nan")))

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = broken

        def forward(self, batch):
            return self.weight * torch.ones_like(batch.labels)

    with pytest.raises(DivergedError, match=r"lower training.learning_rate"):
        fit(Broken(), data, 10, Training(), 0, CPU, lambda epoch: None)
