"""From a file of TensorFlow Lite to arrays: their names and types, and files that are no YAMNet."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from rayrec.cli import main
from rayrec.features.yamnet.conversion import converted
from rayrec.features.yamnet.tflite import TfliteError
from tests.features.yamnet.tiny import BLOCKS, CLASSES, TinyFile, tiny_yamnet


def test_the_arrays_of_a_network() -> None:
    for quantised, kinds in ((True, (np.int8, np.int32)), (False, (np.float32, np.float32))):
        found = converted(tiny_yamnet(quantised))
        assert [name for name in found if name.endswith(".weight")] == [
            *(f"layers.{n}.weight" for n in range(5)),
            "classifier.weight",
        ]
        assert found["layers.1.weight"].shape == (8, 1, 3, 3)  # a channel each
        assert found["layers.4.weight"].shape == (BLOCKS[1][1], BLOCKS[0][1], 1, 1)
        assert found["classifier.weight"].shape == (CLASSES, BLOCKS[1][1])
        assert (found["layers.0.weight"].dtype, found["layers.0.bias"].dtype) == kinds
        assert ("input.scale" in found) == ("layers.3.weight_scale" in found) == quantised
    assert converted(tiny_yamnet(False, activation=1))["ceiling"] == np.inf
    assert converted(tiny_yamnet(False, activation=3))["ceiling"] == 6


def test_another_network_is_refused() -> None:
    with pytest.raises(TfliteError, match="not all followed by a ReLU"):
        converted(tiny_yamnet(quantised=False, activation=0))
    empty = TinyFile(quantised=False, activation=1, seed=1)
    place = empty.tensor((1, 4), "float32")
    with pytest.raises(TfliteError, match="no convolution"):
        converted(empty.packed(place, empty.operator("LOGISTIC", [place], empty.tensor((1, 4), "float32"))))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.tflite", tmp_path / "models" / "a.safetensors"
    source.write_bytes(tiny_yamnet(quantised=True))
    assert run("convert", str(source), str(target)) == 0
    assert "a network in int8" in capsys.readouterr().out
    found = safetensors.numpy.load_file(target)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in converted(source.read_bytes()).items()
    }
    source.write_bytes(b"hello")
    assert run("convert", str(source), str(target)) == 1
    assert "a.tflite can't be converted: it is not a TensorFlow Lite file" in capsys.readouterr().err
    assert run("convert", str(tmp_path / "b.tflite"), str(target)) == 1
    assert "b.tflite: No such file" in capsys.readouterr().err
