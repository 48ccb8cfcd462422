"""The steps of compression on a small network: targets, training that helps, and what is stored is what was trained."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import LayerCompression
from rayrec.features.compression import fitting
from rayrec.features.compression.fitting import DISTORTION, Place, changed, contents, distortion, outputs
from rayrec.features.compression.layers import layers_of
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.workspace.checkpoint import Checkpoint
from tests.features.compression.pictures import SETTINGS, pixels_of, task

FIRST, MIDDLE, LAST = "0.0", "1.0", "2.0"


def test_uniform_targets_and_exceptions() -> None:
    job = task(SETTINGS.model_copy(update={"keep": 0.3, "layers": {"0.*": LayerCompression(keep=0.9)}}))
    shares = fitting.kept_shares(job.original, job)
    assert shares == {FIRST: 0.9, MIDDLE: 0.3, LAST: 0.3, "3.2": 0.3}
    assert fitting.settings_of(LAST, job.settings) == LayerCompression()


def test_nothing_is_measured_where_all_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    job = task(SETTINGS.model_copy(update={"keep": 1.0, "targets": "sensitivity", "layers": {"0.*": LayerCompression(keep=0.9)}}))
    monkeypatch.setattr(fitting, "sensitivities", None)
    assert fitting.kept_shares(job.original, job) == {FIRST: 0.9, MIDDLE: 1.0, LAST: 1.0, "3.2": 1.0}


def test_sensitive_layers_keep_more() -> None:
    """The first layer is small, and whatever it loses changes all that comes behind it."""
    job = task(SETTINGS.model_copy(update={"keep": 0.3, "targets": "sensitivity"}))
    harm = fitting.sensitivities(job.original, {name: layers_of(job.original.body)[name] for name in (FIRST, LAST)}, job)
    assert all(values[-1] == 0 for values in harm.values())
    assert all(values[0] > values[4] > 0 for values in harm.values())
    shares = fitting.kept_shares(job.original, job)
    sizes = {name: layer.weight.numel() for name, layer in layers_of(job.original.body).items()}
    kept = sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert 0.3 <= kept < 0.5
    assert shares[FIRST] > shares[LAST]


def test_training_repairs_much_of_the_harm_and_weights_are_stored_as_trained() -> None:
    job = task()
    expected = outputs(job.original, job.held_out)
    harmed = copy.deepcopy(job.original)
    fitting.pruned(harmed, dict.fromkeys(layers_of(harmed.body), 0.3), task(SETTINGS.model_copy(update={"epochs": 0})), Place())
    network = copy.deepcopy(job.original)
    epochs = fitting.pruned(network, dict.fromkeys(layers_of(network.body), 0.3), job, Place())
    before, after = (distortion(outputs(one, job.held_out), expected) for one in (harmed, network))
    assert after == pytest.approx(min(epoch.metrics[DISTORTION] for epoch in epochs), rel=1e-3)
    assert after < 0.6 * before
    zeros = {name: round(float((layer.weight == 0).float().mean()), 1) for name, layer in layers_of(network.body).items()}
    assert zeros == dict.fromkeys(zeros, 0.7)

    fitting.shared(network, job, Place())
    shared, plain = contents(network)
    for name, layer in layers_of(network.body).items():
        assert np.array_equal(shared[f"{name}.weight"].dense(), layer.weight.detach().numpy())
        assert len(layer.weight.unique()) <= SETTINGS.clusters + 1
    assert shared.keys() | plain.keys() == {
        name for name, tensor in job.original.body.state_dict().items() if tensor.is_floating_point()
    }
    statistics = {name: tensor for name, tensor in job.original.body.state_dict().items() if "running" in name}
    assert statistics
    assert all(np.array_equal(plain[name], tensor.numpy()) for name, tensor in statistics.items())


def test_weights_take_other_values_when_that_helps() -> None:
    """Training goes on behind the shared weights, and brings the outputs nearer than the first values are."""
    job = task(SETTINGS.model_copy(update={"clusters": 4, "bit_cost": 0.0, "sharing_epochs": 12, "sharing_rate": 3e-3}))
    expected, found = outputs(job.original, job.held_out), {}
    for epochs in (0, job.settings.sharing_epochs):
        network = copy.deepcopy(job.original)
        now = replace(job, settings=job.settings.model_copy(update={"sharing_epochs": epochs}))
        fitting.shared(network, now, Place())
        found[epochs] = network, distortion(outputs(network, job.held_out), expected)
    (before, first), (after, last) = found.values()
    assert last < 0.7 * first
    for name, layer in layers_of(after.body).items():
        old = layers_of(before.body)[name].weight
        assert len(layer.weight.unique()) <= 5
        places = [np.unique(one.detach().numpy(), return_inverse=True)[1] for one in (old, layer.weight)]
        assert not np.array_equal(*places)


def test_a_network_that_keeps_all_weights_is_not_trained_before_they_are_shared() -> None:
    job = task()
    network = copy.deepcopy(job.original)
    assert fitting.pruned(network, dict.fromkeys(layers_of(network.body), 1.0), job, Place()) == []
    assert torch.equal(network.body.get_parameter("1.0.weight"), job.original.body.get_parameter("1.0.weight"))


def test_labels_train_a_classifier_beside() -> None:
    job = task(SETTINGS.model_copy(update={"objective": "labels", "epochs": 20}))
    bright = [(one.pixels.mean((1, 2, 3)) > 125).astype(np.int64) for one in (job.train, job.held_out)]
    job = replace(job, train=replace(job.train, labels=bright[0]), held_out=replace(job.held_out, labels=bright[1]))
    network = copy.deepcopy(job.original)
    epochs = fitting.pruned(network, dict.fromkeys(layers_of(network.body), 0.5), job, Place())
    assert max(epoch.metrics[fitting.ACCURACY] for epoch in epochs) > 0.8
    assert epochs[-1].metrics["distortion"] < epochs[-1].loss


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(epochs: list[Epoch]) -> None:
        if len(epochs) == 1:
            raise KilledError

    def run(callback: TrainingCallback, checkpoint: Checkpoint | None) -> torch.Tensor:
        job = task()
        network = copy.deepcopy(job.original)
        fitting.pruned(network, dict.fromkeys(layers_of(network.body), 0.5), job, Place(callback=callback, checkpoint=checkpoint))
        return network.body.get_parameter("1.0.weight").detach()

    checkpoint = Checkpoint(pafs.LocalFileSystem(), str(tmp_path / "checkpoint.pt"))
    with pytest.raises(KilledError):
        run(TrainingCallback(kill), checkpoint)
    assert torch.equal(run(TrainingCallback(), checkpoint), run(TrainingCallback(), None))


def test_changed_pictures() -> None:
    pixels = pixels_of(40)
    found = changed(pixels, np.random.default_rng(1), mixed=False)
    assert (found.shape, found.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(found, changed(pixels, np.random.default_rng(1), mixed=False))
    inner = pixels[0, 8:24, 8:24]  # moved by at most 4 pixels, and perhaps mirrored
    places = [found[0, top : top + 16, left : left + 16] for top in range(4, 13) for left in range(4, 13)]
    assert any(np.array_equal(place, one) for place in places for one in (inner, inner[:, ::-1]))
    mixed = changed(pixels, np.random.default_rng(1), mixed=True)
    same = (mixed == found).all((1, 2, 3))
    assert 5 < same.sum() < 35
    assert np.abs(mixed.astype(float).mean() - found.mean()) < 10
