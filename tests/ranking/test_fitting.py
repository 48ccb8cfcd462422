"""The loop learns what is there, stops early, restores the best epoch, repeats itself, and goes on from where it was killed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Negatives, Ranker, Split, Training
from rayrec.data.batches import Batch
from rayrec.data.loading import RankingData, join_items, prepare
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.ranking.fitting import AUC, predict, train_ranker
from rayrec.ranking.scorer import Scorer
from rayrec.training.callbacks import TrainingCallback
from rayrec.training.metrics import auc, log_loss
from rayrec.training.trainer import DivergedError
from rayrec.workspace.checkpoint import Checkpoint, CheckpointError
from tests.training.small_log import VIDEOS, catalog, interactions

CPU = torch.device("cpu")
RANKER = Ranker(embedding_size=8, hidden=[16], history_length=10, id_dropout=0.0, dropout=0.1)
SETTINGS = Training(epochs=6, batch_size=128, learning_rate=5e-3)


@pytest.fixture(scope="module")
def data() -> RankingData:
    topics = pa.table(
        {"video_id": catalog()["video_id"], "topics": pa.array([[i % 4] for i in range(VIDEOS)], pa.list_(pa.int32()))}
    )
    items = join_items(catalog().select(["video_id"]), topics, None, [])
    return prepare(interactions(6000), items, None, RANKER, Split(validation=0.1, test=0.2))


def with_values(**training: Any) -> Training:
    return SETTINGS.model_copy(update=training)


def same_weights(one: Scorer, other: Scorer) -> bool:
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_whom_to_show_what(data: RankingData) -> None:
    seen = []
    scorer, epochs = train_ranker(
        data, RANKER, SETTINGS, 1, callback=TrainingCallback(on_epoch=lambda done: seen.append(list(done)))
    )
    assert seen == [epochs[: n + 1] for n in range(len(epochs))]
    found = auc(data.test.clicked, predict(scorer.model, data.test, HistoryGather(data.clicks, LatestClicks(10), CPU), CPU))
    matches = [
        int(data.items.ids[i][1:]) % 4 == int(data.users.ids[u][1:]) % 4
        for u, i in zip(data.test.user, data.test.item, strict=True)
    ]
    best = auc(data.test.clicked, np.where(matches, 0.9, 0.1))
    assert best - 0.05 < found <= best + 0.01
    assert epochs[-1].loss < epochs[0].loss


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(data: RankingData) -> None:
    """A learning rate of nearly nothing leaves the model as it is, so that the epoch's loss is that model's log loss."""
    ranker = RANKER.model_copy(update={"dropout": 0.0})
    scorer, epochs = train_ranker(data, ranker, with_values(epochs=1, learning_rate=1e-12, weight_decay=0.0), 1)
    probability = predict(scorer.model, data.train, HistoryGather(data.clicks, LatestClicks(10), CPU), CPU)
    assert epochs[0].loss == pytest.approx(log_loss(data.train.clicked, probability), rel=1e-5)


def test_the_best_epoch_is_restored_and_waiting_ends(data: RankingData) -> None:
    scorer, epochs = train_ranker(data, RANKER, with_values(epochs=40, learning_rate=0.05, patience=2), 1)
    best = max(epochs, key=lambda epoch: epoch.metrics[AUC])
    assert len(epochs) == best.epoch + 2 < 40
    again = predict(scorer.model, data.validation, HistoryGather(data.clicks, LatestClicks(10), CPU), CPU)
    assert auc(data.validation.clicked, again) == pytest.approx(best.metrics[AUC])


def test_the_same_seed_gives_the_same_weights_and_another_one_others(data: RankingData) -> None:
    first, second, other = (train_ranker(data, RANKER, with_values(epochs=2), seed)[0] for seed in (1, 1, 2))
    assert same_weights(first, second)
    assert not same_weights(first, other)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("where", ["between epochs", "within an epoch"])
def test_a_killed_run_ends_as_one_that_was_not(data: RankingData, tmp_path: Path, where: str) -> None:
    settings = with_values(epochs=3, batch_size=16, checkpoint_s=1e-9, cut_histories=0.2, hidden_clicks=0.1)
    whole, epochs = train_ranker(data, RANKER, settings, 1)
    checkpoint = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt")

    def kill(*news: Any) -> None:
        progress = news[0] if where == "within an epoch" else None
        if progress and (progress.epoch, progress.step) == (2, 200):  # its own step 200 is not saved yet, step 100 is
            raise KilledError
        if progress is None and len(news[0]) == 2:
            raise KilledError

    callback = TrainingCallback(on_progress=kill) if where == "within an epoch" else TrainingCallback(on_epoch=kill)
    with pytest.raises(KilledError):
        train_ranker(data, RANKER, settings, 1, callback=callback, checkpoint=checkpoint)
    state = checkpoint.load()
    assert (len(state["epochs"]), state["now"]["step"]) == ((1, 100) if where == "within an epoch" else (2, 0))
    resumed, again = train_ranker(data, RANKER, settings, 1, checkpoint=checkpoint)
    assert same_weights(whole, resumed)
    assert [epoch.metrics for epoch in again] == [epoch.metrics for epoch in epochs]
    assert again[-1].loss == pytest.approx(epochs[-1].loss)


def test_a_checkpoint_of_another_config_is_refused(data: RankingData, tmp_path: Path) -> None:
    checkpoint = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt")
    train_ranker(data, RANKER, with_values(epochs=1), 1, checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: a checkpoint of another config or other data; delete it"):
        train_ranker(data, RANKER.model_copy(update={"hidden": [8]}), with_values(epochs=1), 1, checkpoint=checkpoint)
    (tmp_path / "checkpoint.pt").write_bytes(b"none of ours")
    with pytest.raises(CheckpointError, match=r"not a checkpoint that can be read"):
        train_ranker(data, RANKER, with_values(epochs=1), 1, checkpoint=checkpoint)


def test_divergence_is_an_error_that_says_when_and_what_to_change(data: RankingData) -> None:
    """Step 3 of the second epoch is the first whose loss is not finite."""

    class Breaks(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> None:
            super().step()
            self.steps += 1
            if self.steps == 38 + 2:
                self.param_groups[0]["params"][0].data.fill_(float("nan"))

    from rayrec.ranking.models.wide_deep import WideDeep

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WideDeep, "optimizer", lambda model, settings: Breaks([model.mlp.request.weight], lr=1e-3))
        assert -(-len(data.train) // 112) == 38
        with pytest.raises(DivergedError, match=r"became nan in step 3 of epoch 2, after 0\.\d+ in the step .*lower training\.le"):
            train_ranker(data, RANKER, with_values(batch_size=112), 1)


def test_clipping_keeps_a_wild_learning_rate_in_bounds(data: RankingData) -> None:
    """One step of SGD moves the weights by the learning rate times the gradients' norm, which is clipped."""
    from rayrec.ranking.models.wide_deep import WideDeep

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WideDeep, "optimizer", lambda model, settings: torch.optim.SGD(model.mlp.parameters(), lr=1.0))
        settings = with_values(epochs=1, batch_size=10_000, clip=1e-3)
        start, _ = train_ranker(data, RANKER, settings.model_copy(update={"clip": 1e-12}), 1)
        moved, _ = train_ranker(data, RANKER, settings, 1)
    pairs = zip(start.model.mlp.parameters(), moved.model.mlp.parameters(), strict=True)
    distance = torch.sqrt(sum((one - other).square().sum() for one, other in pairs))
    assert 0 < distance <= 1.001e-3


def clicks_alone() -> RankingData:
    """The same people, but nobody knows what else they were shown."""
    log = interactions(6000)
    topics = pa.table(
        {"video_id": catalog()["video_id"], "topics": pa.array([[i % 4] for i in range(VIDEOS)], pa.list_(pa.int32()))}
    )
    items = join_items(catalog().select(["video_id"]), topics, None, [])
    return prepare(log.filter(log["clicked"]), items, None, RANKER, Split(validation=0.1, test=0.2))


def test_a_log_of_clicks_alone_is_learned_with_negatives(caplog: pytest.LogCaptureFixture) -> None:
    data = clicks_alone()
    with caplog.at_level("INFO"):
        scorer, epochs = train_ranker(data, RANKER, SETTINGS, 1)
    assert "the log has clicks alone: 4 videos are drawn for each" in caplog.text
    assert max(epoch.metrics[AUC] for epoch in epochs) > 0.6
    assert same_weights(scorer, train_ranker(data, RANKER, SETTINGS, 1)[0])


def test_a_training_with_negatives_goes_on_from_where_it_was_killed(tmp_path: Path) -> None:
    data, settings = clicks_alone(), with_values(epochs=2, negatives=Negatives(count=2, by="popularity"))
    whole, epochs = train_ranker(data, RANKER, settings, 1)
    file = Checkpoint(pafs.LocalFileSystem(), str(tmp_path / "checkpoint.pt"))
    train_ranker(data, RANKER, settings.model_copy(update={"epochs": 1}), 1, checkpoint=file)
    resumed, again = train_ranker(data, RANKER, settings, 1, checkpoint=file)
    assert same_weights(whole, resumed)
    assert [epoch.loss for epoch in again] == [epoch.loss for epoch in epochs]


def test_the_loss_with_negatives_is_the_mean_over_impressions_and_drawn_videos(data: RankingData) -> None:
    """Of an impression that was not clicked the places for negatives are empty, and count for nothing."""
    model = Scorer.untrained(RANKER, data).model.eval()
    items = torch.tensor([[5, 3, 4], [6, 0, 0]])
    batch = Batch(
        user=torch.tensor([1, 2]),
        at=torch.tensor([9, 9]),
        history=torch.zeros(2, 10, dtype=torch.int64),
        history_at=torch.zeros(2, 10, dtype=torch.int64),
        context=torch.zeros(2, 0, dtype=torch.int64),
        candidates=items,
        labels=torch.tensor([[1.0, 0, 0], [0, 0, 0]]),
    )
    chance = torch.sigmoid(model(batch)).tolist()
    clicked = -np.log(chance[0][0]) - np.log(1 - chance[0][1]) - np.log(1 - chance[0][2])
    np.testing.assert_allclose(model.losses(batch).tolist(), [clicked / 3, -np.log(1 - chance[1][0]) / 3], rtol=1e-5)
