"""The reader of TensorFlow Lite files: what it reads of a sound one, and that a damaged one is an error and nothing else."""

import numpy as np
import pytest

from rayrec.features.yamnet.tflite import CONV_2D, RELU6, TfliteError, read_operators
from tests.features.yamnet.tiny import STEM, STEP, tiny_yamnet


def test_operators_with_their_constants() -> None:
    operators = read_operators(tiny_yamnet(quantised=True))
    kinds = [operator.kind for operator in operators]
    assert kinds == [114, 22, 3, 4, 3, 4, 3, 40, 9, 14, 6]  # quantize, reshape, the convolutions, mean, dense, sigmoid, dequantize
    first = operators[kinds.index(CONV_2D)]
    patch, weights, biases = first.inputs
    assert (patch.values, patch.scale.tolist(), patch.zero_point.tolist()) == (None, [pytest.approx(0.05)], [17])
    assert (weights.values.shape, weights.values.dtype) == ((STEM, 3, 3, 1), np.int8)
    assert np.abs(weights.values).max(axis=(1, 2, 3)).tolist() == [127] * STEM
    assert len(weights.scale) == len(biases.values) == STEM
    assert biases.scale == pytest.approx(0.05 * weights.scale)
    assert first.activation == RELU6
    assert first.outputs[0].scale.tolist() == [pytest.approx(STEP)]


def test_what_is_no_such_file() -> None:
    for data in (b"", b"\x04\x00\x00\x00", b"hello" * 100):
        with pytest.raises(TfliteError, match="not a TensorFlow Lite file"):
            read_operators(data)


def test_damage_is_said_and_does_no_harm() -> None:
    whole = tiny_yamnet(quantised=True)
    for size in range(8, len(whole), len(whole) // 60):
        with pytest.raises(TfliteError, match="damaged"):
            read_operators(whole[:size])
    draw = np.random.default_rng(3)
    for _ in range(300):
        data = bytearray(whole)
        for place in draw.integers(8, len(data), 5):
            data[place] = draw.integers(256)
        for place in 4 * draw.integers(2, len(data) // 4, 20):  # offsets and lengths that are far too large, or negative
            data[place + 2 : place + 4] = draw.choice([b"\xff\xff", b"\xff\x7f", b"\x00\x80"])
        try:
            read_operators(bytes(data))
        except TfliteError:
            continue
