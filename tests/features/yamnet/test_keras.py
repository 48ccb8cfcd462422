"""A file of Keras with YAMNet's weights, as TensorFlow's model garden lays it out: what is read from it, and what is refused."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch.nn import functional

from rayrec.cli import main
from rayrec.features.padding import same_padded
from rayrec.features.yamnet import conversion
from rayrec.features.yamnet.network import BLOCKS, YAMNet
from tests.features.yamnet.test_network import TRAINED
from tests.features.yamnet.tiny import random_state

h5py = pytest.importorskip("h5py", reason="h5py is not installed: YAMNet's file of Keras is NOT tested")
keras = pytest.importorskip("rayrec.features.yamnet.keras")

PATCHES = np.random.default_rng(5).normal(-2, 2, (3, 96, 64)).astype(np.float32)
NAMES = ["layer1/conv", *(f"layer{2 + n // 2}/{('depthwise', 'pointwise')[n % 2]}_conv" for n in range(2 * len(BLOCKS)))]
Variables = dict[str, np.ndarray]


def variables_of(state: dict[str, np.ndarray], dense: str = "logits", seed: int = 2) -> Variables:
    """Variables of Keras that mean the same network: random batch norms, and kernels that make up for them."""
    rng, found = np.random.default_rng(seed), Variables()
    for number, name in enumerate(NAMES):
        weight, bias = state[f"layers.{number}.weight"], state[f"layers.{number}.bias"]
        mean, variance = rng.normal(0, 0.3, len(bias)), rng.uniform(0.01, 2, len(bias))
        deviation = np.sqrt(variance + 1e-4)
        own = weight * deviation[:, None, None, None]
        deep = "depthwise" in name
        found[f"{name}/{'depthwise_' if deep else ''}kernel:0"] = own.transpose((2, 3, 0, 1) if deep else (2, 3, 1, 0))
        found |= {f"{name}/bn/beta:0": bias + mean / deviation, f"{name}/bn/moving_mean:0": mean}
        found[f"{name}/bn/moving_variance:0"] = variance
    return found | {f"{dense}/kernel:0": state["classifier.weight"].T, f"{dense}/bias:0": state["classifier.bias"]}


def written(variables: Variables, root: str = "") -> bytes:
    """A file in which the group of a layer holds its variables under their full names."""
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        hdf5.attrs["layer_names"] = [name.encode() for name in NAMES]
        for name, array in variables.items():
            hdf5.create_dataset(f"{root}{name.rpartition('/')[0]}/{name}", data=array.astype(np.float32))
    return file.getvalue()


def scores(state: dict[str, np.ndarray], output: str = "scores") -> np.ndarray:
    with torch.inference_mode():
        network = YAMNet({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}, output).eval()
        return network(torch.from_numpy(PATCHES)).numpy()


def layer_by_layer(variables: Variables, dense: str = "logits") -> np.ndarray:
    """The scores as Keras computes them: convolution, batch norm, ReLU, one after another."""
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in variables.items()}
    strides = [2, *(step for stride, _ in BLOCKS for step in (stride, 1))]
    x = torch.from_numpy(PATCHES)[:, None]
    for name, stride in zip(NAMES, strides, strict=True):
        if "depthwise" in name:
            kernel, groups = tensors[f"{name}/depthwise_kernel:0"].permute(2, 3, 0, 1), x.shape[1]
        else:
            kernel, groups = tensors[f"{name}/kernel:0"].permute(3, 2, 0, 1), 1
        x = functional.conv2d(same_padded(x, kernel.shape[-1], stride), kernel, stride=stride, groups=groups)
        mean, variance, beta = (tensors[f"{name}/bn/{part}:0"] for part in ("moving_mean", "moving_variance", "beta"))
        x = functional.batch_norm(x, mean, variance, None, beta, eps=1e-4).relu()
    return (x.mean((2, 3)) @ tensors[f"{dense}/kernel:0"] + tensors[f"{dense}/bias:0"]).sigmoid().numpy()


@pytest.mark.parametrize(("dense", "root"), [("logits", ""), ("dense", "model_weights/")])
def test_random_weights_come_back(dense: str, root: str) -> None:
    state = random_state()
    variables = variables_of(state, dense)
    found = keras.converted(written(variables, root))
    assert {name: array.shape for name, array in found.items()} == {name: array.shape for name, array in state.items()}
    for name, array in state.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=2e-6, err_msg=name)
    expected = layer_by_layer(variables, dense)
    assert expected.std(axis=0).min() > 1e-4
    assert scores(found) == pytest.approx(expected, abs=1e-4)


@pytest.mark.skipif(not TRAINED.exists(), reason="the trained YAMNet is not at hand: its weights are NOT written as Keras does")
def test_trained_weights_come_back() -> None:
    state = real(conversion.converted(TRAINED.read_bytes()))
    found = keras.converted(written(variables_of(state)))
    assert found.keys() == state.keys()
    for output in ("scores", "embedding"):
        assert scores(found, output) == pytest.approx(scores(state, output), abs=1e-4)


def real(quantised: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The real numbers that the weights of an int8 network mean; its ReLU6 is a ReLU here."""
    found, before = dict[str, np.ndarray](), quantised["input.scale"]
    for name in [*(f"layers.{number}" for number in range(len(NAMES))), "classifier"]:
        before = quantised["pooled.scale"] if name == "classifier" else before
        weight, scales = quantised[f"{name}.weight"], quantised[f"{name}.weight_scale"]
        found[f"{name}.weight"] = weight * scales.reshape(-1, *[1] * (weight.ndim - 1))
        found[f"{name}.bias"] = quantised[f"{name}.bias"] * scales * before
        before = quantised[f"{name}.scale"]
    return found | {"ceiling": np.array([np.inf], np.float32)}


def test_a_batch_norm_may_have_a_scale() -> None:
    variables = variables_of(random_state())
    plain = keras.converted(written(variables))
    variables["layer1/conv/bn/gamma:0"] = np.full(32, 2.0)
    found = keras.converted(written(variables))
    assert found["layers.0.weight"] == pytest.approx(2 * plain["layers.0.weight"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1/conv/kernel:0": None}, "it has no layer1/conv/kernel:0"),
        ({"layer3/pointwise_conv/bn/beta:0": None}, "it has no layer3/pointwise_conv/bn/beta:0"),
        ({"layer3/pointwise_conv/bn/beta:0": np.zeros(7)}, "layer3/pointwise_conv/kernel:0 has 128 outputs"),
        ({"layer1/conv/kernel:0": np.zeros((3, 3))}, r"layer1/conv/kernel:0 has the shape \(3, 3\)"),
        ({"logits/kernel:0": None}, "it has 0 dense layers"),
        ({"more/kernel:0": np.zeros((3, 3))}, "it has 2 dense layers"),
    ],
)
def test_another_network_is_refused(change: dict[str, Any], message: str) -> None:
    variables = {name: array for name, array in (variables_of(random_state()) | change).items() if array is not None}
    with pytest.raises(keras.KerasError, match=message):
        keras.converted(written(variables))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    data = written(variables_of(random_state()))
    for damaged in (data[: len(data) // 2], data[:8] + bytes(len(data) - 8), b"hello"):
        with pytest.raises(keras.KerasError, match="it is damaged"):
            keras.converted(damaged)
    (tmp_path / "secret").write_bytes(bytes(400))
    for options in ({"external": [(str(tmp_path / "secret"), 0, 400)]}, {"chunks": (10,)}):  # elsewhere; and never written
        file = io.BytesIO()
        with h5py.File(file, "w") as hdf5:
            hdf5.create_dataset("layer1/conv/kernel:0", (100 if "external" in options else 10**12,), "f4", **options)
        with pytest.raises(keras.KerasError, match="layer1/conv/kernel:0 is not stored in the file as a whole"):
            keras.converted(file.getvalue())


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "yamnet.h5", tmp_path / "yamnet.safetensors"
    source.write_bytes(written(variables_of(random_state())))
    assert run("convert", str(source), str(target)) == 0
    assert "a network in float32" in capsys.readouterr().out
    expected = keras.converted(source.read_bytes())
    found = safetensors.numpy.load_file(target)
    assert {name: array.tobytes() for name, array in found.items()} == {name: array.tobytes() for name, array in expected.items()}
    source.write_bytes(written({"a/kernel:0": np.zeros((2, 2))}))
    assert run("convert", str(source), str(target)) == 1
    assert "yamnet.h5 can't be converted: it has no layer1/conv/kernel:0" in capsys.readouterr().err
    monkeypatch.setattr("rayrec.config.base.find_spec", lambda _: None)
    monkeypatch.delitem(sys.modules, "h5py")
    assert run("convert", str(source), str(target)) == 1
    assert "pip install 'rayrec[keras]'" in capsys.readouterr().err
