"""Blocks are random samples of the log, and examples that are in memory know which block they belong to."""

import numpy as np
import pytest
import torch

from rayrec.data import blocks
from rayrec.data.blocks import block_indices
from rayrec.data.loading import RankingData

CPU = torch.device("cpu")


def test_a_block_is_a_sample_of_the_log() -> None:
    indices = block_indices(0, 10_000, 10)
    assert np.bincount(indices).tolist() == pytest.approx([1000] * 10, rel=0.15)
    assert [np.flatnonzero(indices == block).mean() for block in range(10)] == pytest.approx([5000] * 10, rel=0.1)
    assert np.array_equal(block_indices(300, 500, 10), indices[300:500])


def test_an_example_takes_at_most_40_bytes(data: RankingData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    train = data.train.take(slice(None))
    columns, order = train._on_device(CPU)
    for tensor, array in zip(columns.given, train.columns, strict=True):
        assert tensor.data_ptr() == array.ctypes.data  # not copied
    assert sum(column.nbytes for column in columns.given) + order.nbytes == len(train) * (25 + 2 * 2 + 4) < len(train) * 40
