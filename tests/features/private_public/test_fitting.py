"""The private/public network learns, stops early, and goes on from where its training was killed."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rayrec.config import PrivatePublic
from rayrec.errors import RayrecError
from rayrec.features.private_public.fitting import PartFiles, TrainableNetwork, batches, fit
from rayrec.features.private_public.inputs import INPUTS, shapes
from rayrec.features.private_public.network import PrivatePublicNetwork
from rayrec.training.callbacks import NO_CALLBACK, Epoch, Progress, TrainingCallback
from rayrec.training.exchange import Worker
from rayrec.training.trainer import DivergedError, Trainer
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.files import open_filesystem

CPU = torch.device("cpu")
SETTINGS = PrivatePublic(
    frames=4, size=32, bands=16, width=4, branch_size=4, epochs=3, batch_size=4, held_out=0.2, decoders=1, learning_rate=3e-3
)


def write_parts(folder: Path, files: int, rows: int, seed: int) -> PartFiles:
    """Part files of two classes: bright pictures with a high sound, dark ones with a low one. Each third video is silent."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    frames_shape, sound_shape = shapes(SETTINGS)
    for number in range(files):
        labels = rng.integers(0, 2, rows)
        frames = [rng.integers(80 * label, 80 * label + 120, frames_shape, dtype=np.uint8).tobytes() for label in labels]
        tilt = np.linspace(-1, 1, SETTINGS.bands)[:, None]
        sound = [(rng.normal(size=sound_shape) + (2 * label - 1) * tilt).astype(np.float16).tobytes() for label in labels]
        columns = {
            "video_id": [f"{folder.name}-{number}-{row}" for row in range(rows)],
            "role": ["train"] * rows,
            "label": pa.array(labels, pa.int32()),
            "error": pa.nulls(rows, pa.string()),
            "frames": pa.array(frames, pa.large_binary()),
            "sound": pa.array([None if row % 3 == 2 else data for row, data in enumerate(sound)], pa.large_binary()),
        }
        pq.write_table(pa.table(columns, schema=INPUTS), folder / f"part-{number:06d}.parquet")
    return PartFiles.of(*open_filesystem(folder))


def train(
    folder: Path, epochs: int, parts: tuple[PartFiles, PartFiles], callback: TrainingCallback = NO_CALLBACK, **changes: Any
) -> tuple[PrivatePublicNetwork, list[Epoch]]:
    settings = SETTINGS.model_copy(update={"epochs": epochs, "patience": 99} | changes)
    network = PrivatePublicNetwork(settings, 2, seed=1)
    checkpoint = Checkpoint(*open_filesystem(folder / "checkpoint.pt"))
    return network, fit(network, *parts, settings, 7, callback=callback, checkpoint=checkpoint)


def test_it_learns_and_a_killed_training_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = write_parts(tmp_path / "train", files=10, rows=5, seed=1), write_parts(tmp_path / "held_out", files=2, rows=5, seed=2)
    whole, epochs = train(tmp_path / "whole", 4, parts)
    assert epochs[-1].metrics["classification"] < 0.7 * epochs[0].metrics["classification"]
    assert max(epoch.metrics["held_out_accuracy"] for epoch in epochs) >= 0.9

    def kill(progress: Progress, epochs: list[Epoch]) -> None:
        if (progress.epoch, progress.step) == (3, 13):  # the last step of the third epoch; after the tenth there is a checkpoint
            raise KeyboardInterrupt

    monkeypatch.setattr("rayrec.features.private_public.fitting.Trainer", partial(Trainer, checkpoint_s=1e-9))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", 4, parts, TrainingCallback(on_progress=kill))
    state = Checkpoint(*open_filesystem(tmp_path / "killed" / "checkpoint.pt")).load()
    assert state is not None
    assert (len(state["epochs"]), state["now"]["step"]) == (2, 10)
    again, all_epochs = train(tmp_path / "killed", 4, parts)
    assert [(epoch.loss, epoch.metrics) for epoch in epochs] == [(epoch.loss, epoch.metrics) for epoch in all_epochs]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_it_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "train", files=2, rows=4, seed=1), write_parts(tmp_path / "held_out", files=1, rows=4, seed=2)
    scripted = iter([3.0, 2.0, 2.5, 2.5, 9.0])
    weights = []

    def evaluate(network: PrivatePublicNetwork, *_: Any) -> tuple[float, float]:
        weights.append(network.head.weight.clone())
        return next(scripted), 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayrec.features.private_public.fitting.evaluate", evaluate)
        network, epochs = train(tmp_path, 9, parts, patience=1)
    assert len(epochs) == 4
    assert torch.equal(network.head.weight, weights[1])


def test_a_loss_that_is_not_finite_is_said_with_what_to_change(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "train", files=2, rows=4, seed=1), write_parts(tmp_path / "held_out", files=1, rows=4, seed=2)
    with pytest.raises(DivergedError, match="learning_rate"):
        train(tmp_path, 3, parts, learning_rate=1e30)


def test_too_few_videos_are_said(tmp_path: Path) -> None:
    some, none = write_parts(tmp_path / "train", files=1, rows=4, seed=1), PartFiles.of(*open_filesystem(tmp_path / "nothing"))
    for parts in ((some, none), (none, some)):
        with pytest.raises(RayrecError, match="too few"):
            train(tmp_path, 3, parts)


def test_batches_hold_every_video_once_in_a_new_order_each_time(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "train", files=10, rows=5, seed=1)
    everything = {f"train-{number}-{row}" for number in range(10) for row in range(5)}
    orders = []
    for seed in (None, 1, 2):
        found = [ids for _, _, ids in batches(parts, SETTINGS, 4, np.random.default_rng(seed) if seed else None)]
        assert [len(ids) for ids in found] == [4] * 12 + [2]
        orders.append([name for ids in found for name in ids])
        assert set(orders[-1]) == everything
    assert orders[0] != orders[1] != orders[2]
    inputs, labels, _ = next(batches(parts, SETTINGS, 6))
    assert inputs.has_sound.tolist() == [True, True, False, True, True, True]
    assert set(labels.tolist()) <= {0, 1}


def test_two_workers_see_every_video_once_and_take_as_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three files one worker has two; the other's last steps are empty."""
    monkeypatch.setattr("rayrec.features.private_public.fitting.total", lambda values, worker: values)
    train, held_out = (write_parts(tmp_path / name, files=3, rows=5, seed=1) for name in ("train", "held_out"))
    network = PrivatePublicNetwork(SETTINGS, 2, seed=1)
    workers = [TrainableNetwork(network, train, held_out, SETTINGS, 7, CPU, Worker(rank, 2)) for rank in range(2)]
    steps = list(zip(*(worker.batches(1, 0) for worker in workers), strict=True))
    assert len(steps) == workers[0].steps(1) == workers[1].steps(1) == 5
    sizes = [[0 if share is None else len(share.labels) for share, _ in step] for step in steps]
    assert sorted(map(sum, zip(*sizes, strict=True))) == [5, 10]
    assert [sum(step) for step in sizes] == [step[0][1] for step in steps] == [step[1][1] for step in steps]
    later = list(workers[0].batches(1, 2))
    assert [examples for _, examples in later] == [step[0][1] for step in steps[2:]]
    assert later[0][0] is not None
    assert steps[2][0][0] is not None
    assert torch.equal(later[0][0].inputs.frames, steps[2][0][0].inputs.frames)
