"""What a report says of the quality that is left."""

from typing import Any

import numpy as np
import pytest
import torch

from rayrec.features.compression.report import accuracy, losses_in_words


def test_accuracy_is_that_of_the_nearest_other_picture() -> None:
    outputs = torch.tensor([[1.0, 0.0], [3.0, 0.1], [0.0, 2.0], [0.1, 1.0], [0.2, 1.0]])
    assert accuracy(outputs, np.array([0, 0, 1, 1, 1])) == 1
    assert accuracy(outputs, np.array([0, 0, 1, 0, 1])) == pytest.approx(2 / 5)  # 2 and 3 are nearest to each other, 4 to 3
    assert accuracy(outputs, None) is None
    assert accuracy(outputs[:1], np.array([0])) is None


@pytest.mark.parametrize(
    ("distortion", "after", "sentence"),
    [
        (0.35, None, "int8: the outputs differ from the original's by 35% of their variance"),
        (0.05, 0.70, "int8: 70.0% of the held-out pictures have a nearest neighbour of their class, 81.0% with the original"),
        (0.05, 0.80, None),
        (0.05, None, None),
    ],
)
def test_a_great_loss_is_said_in_words(distortion: float, after: float | None, sentence: str | None) -> None:
    quality = {"int8": {"distortion": distortion, "cosine": 0.9, "accuracy": after}}
    report: dict[str, Any] = {"quality": quality, "original_accuracy": None if after is None else 0.81}
    found = losses_in_words(report)
    assert [one.startswith(sentence or "") for one in found] == ([True] if sentence else [])
