"""The loop with a model of two numbers: when it stops, what it keeps, and which checkpoints it refuses."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from torch import Tensor, nn

from rayrec.training.callbacks import Epoch, Progress, TrainingCallback
from rayrec.training.exchange import SINGLE, Worker
from rayrec.training.trainable import Trainable
from rayrec.training.trainer import DivergedError, Trainer
from rayrec.workspace.checkpoint import Checkpoint, CheckpointError

TARGETS = torch.arange(7.0)  # three batches: 3, 3 and 1 examples


class Line(Trainable[Tensor]):
    """Learns the mean of TARGETS. The validation is scripted."""

    terms = ("loss", "distance")
    check_steps = 2
    advice = "lower the rate"

    def __init__(self, scripted: Sequence[float] = (), rate: float = 0.1, worker: Worker = SINGLE) -> None:
        model = nn.Linear(1, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        super().__init__(model, torch.optim.SGD(model.parameters(), lr=rate))
        self.scripted, self.worker = list(scripted), worker

    def steps(self, epoch: int) -> int:
        return 3

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor | None, int]]:
        for batch in TARGETS.split(3)[skip:]:
            share = batch[self.worker.rank :: self.worker.world_size]
            yield (share if len(share) else None), len(batch)

    def losses(self, share: Tensor, examples: int) -> Sequence[Tensor]:
        error = self.model(torch.ones(len(share), 1))[:, 0] - share
        return error.square().sum() / examples, error.abs().sum() / examples

    def validate(self) -> dict[str, float]:
        return {"score": self.scripted.pop(0)} if self.scripted else {}

    def quality(self, epoch: Epoch) -> float:
        return epoch.metrics["score"] if "score" in epoch.metrics else super().quality(epoch)


def test_the_figures_of_an_epoch_are_means_over_its_examples_for_each_term() -> None:
    (epoch,) = Trainer(epochs=1, seed=0).fit(Line(rate=0.0))
    assert epoch.loss == pytest.approx(float(TARGETS.square().mean()))
    assert epoch.metrics == {"distance": pytest.approx(float(TARGETS.mean()))}
    assert epoch.examples_per_s > 0
    assert Epoch.from_json(epoch.to_json()) == epoch


def test_it_stops_after_so_many_epochs_without_a_better_one_and_keeps_the_best() -> None:
    weights = []
    trainable = Line([1.0, 3.0, 2.0, 3.0, 9.0])
    callback = TrainingCallback(on_epoch=lambda epochs: weights.append(float(trainable.model.bias.detach())))
    epochs = Trainer(epochs=9, seed=0, patience=2, callback=callback).fit(trainable)
    assert [epoch.metrics["score"] for epoch in epochs] == [1.0, 3.0, 2.0, 3.0]
    assert float(trainable.model.bias.detach()) == weights[1]


def test_without_a_validation_the_latest_epoch_is_kept() -> None:
    weights = []
    trainable = Line()
    callback = TrainingCallback(on_epoch=lambda epochs: weights.append(float(trainable.model.bias.detach())))
    assert len(Trainer(epochs=3, seed=0, callback=callback).fit(trainable)) == 3
    assert float(trainable.model.bias.detach()) == weights[2]


def test_progress_is_reported_at_every_look_and_at_the_end_of_an_epoch() -> None:
    seen: list[Progress] = []
    Trainer(epochs=2, seed=0, callback=TrainingCallback(on_progress=lambda progress, _: seen.append(progress))).fit(Line())
    assert [(progress.epoch, progress.step, progress.steps) for progress in seen] == [(1, 2, 3), (1, 3, 3), (2, 2, 3), (2, 3, 3)]
    assert all(progress.seconds_left >= 0 for progress in seen)


def test_divergence_names_the_step_and_the_advice() -> None:
    with pytest.raises(DivergedError, match=r"became (inf|nan) in step \d of epoch \d+.*; lower the rate"):
        Trainer(epochs=99, seed=0).fit(Line(rate=1e9))


def test_a_last_step_that_goes_too_far_is_divergence_too() -> None:
    class Leaping(Line):
        """The loss of its last batch is finite, but the step that follows is not, and no loss comes after it."""

        def losses(self, share: Tensor, examples: int) -> Sequence[Tensor]:
            self.optimizer.param_groups[0]["lr"] = 1e38 if examples == 1 else 0.1
            return super().losses(share, examples)

    with pytest.raises(DivergedError, match="the weights are not finite after step 3, the last one of epoch 1; lower the rate"):
        Trainer(epochs=1, seed=0).fit(Leaping())


@pytest.mark.parametrize("seed", [0, 20_261_129, 2**32 - 1])
def test_any_seed_will_do(seed: int) -> None:
    assert len(Trainer(epochs=1, seed=seed).fit(Line())) == 1


@pytest.mark.parametrize(
    "state",
    [
        {"model": {}, "optimizer": {}, "best": {}, "epochs": [], "step": 0, "loss": 0.0, "seconds": 0.0},  # a ranker of version 0.1
        {"epochs": 3, "model": {}, "optimizer": {}},  # its topics
        [1, 2],
    ],
)
def test_checkpoints_of_other_versions_are_refused(tmp_path: Path, state: Any) -> None:
    checkpoint = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt")
    checkpoint.save(state)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: a checkpoint of another version of rayrec; delete it"):
        Trainer(epochs=1, seed=0, checkpoint=checkpoint).fit(Line())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt")
    Trainer(epochs=1, seed=0, checkpoint=checkpoint).fit(Line())
    other = Line()
    other.model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: a checkpoint of another config or other data; delete it"):
        Trainer(epochs=1, seed=0, checkpoint=checkpoint).fit(other)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(pafs.LocalFileSystem(), f"{tmp_path}/checkpoint.pt")
    first, again = Line([2.0, 1.0]), Line()
    epochs = Trainer(epochs=2, seed=0, checkpoint=checkpoint).fit(first)
    assert Trainer(epochs=2, seed=0, checkpoint=checkpoint).fit(again) == epochs
    assert torch.equal(again.model.bias, first.model.bias)
