"""Batches carry the rows of the log unchanged, in an order that any number of workers share, and never show the future."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Training
from rayrec.data import blocks
from rayrec.data.batches import Batch, batches, steps_of, training_batches
from rayrec.data.examples import Examples
from rayrec.data.history import ClickHistory
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather, LatestClicks

CPU = torch.device("cpu")


def rows_of(batch: Batch) -> Iterator[tuple[int, int, int, float]]:
    """User, item, time and label of each row of a batch with one candidate each."""
    assert batch.labels is not None
    columns = (batch.user, batch.candidates[:, 0], batch.at, batch.labels[:, 0])
    return zip(*(column.tolist() for column in columns), strict=True)


def test_batches_carry_the_logs_rows(data: RankingData, raw: dict[str, pa.Table]) -> None:
    gather = HistoryGather(data.clicks, LatestClicks(5), CPU)
    seen = [
        (data.users.ids[user], data.items.ids[item], int(at), bool(label))
        for batch in batches(data.test, gather, 64, CPU)
        for user, item, at, label in rows_of(batch)
    ]
    log = raw["interactions"].take(pa.array(np.argsort(raw["interactions"]["shown_at"].to_numpy(), kind="stable")))
    columns = (log[name].to_pylist()[-len(data.test) :] for name in ("user_id", "video_id", "shown_at", "clicked"))
    assert seen == list(zip(*columns, strict=True))


def test_an_epoch_is_the_whole_split_in_a_new_order(data: RankingData, monkeypatch: pytest.MonkeyPatch) -> None:
    gather = HistoryGather(data.clicks, LatestClicks(5), CPU)
    settings = Training(batch_size=50)
    whole = sorted(row for batch in batches(data.train, gather, 64, CPU) for row in rows_of(batch))
    for block_rows in (blocks.BLOCK_ROWS, 64):
        monkeypatch.setattr(blocks, "BLOCK_ROWS", block_rows)
        train = data.train.take(slice(None))
        first, again, second = (list(training_batches(train, gather, settings, CPU, 3, epoch)) for epoch in (0, 0, 1))
        sizes = [size for _, size in first]
        assert sizes == [len(batch.user) for batch, _ in first] == [50] * (len(train) // 50) + [len(train) % 50]
        assert len(sizes) == steps_of(train, settings)
        rows, rows_again, other = ([row for batch, _ in epoch for row in rows_of(batch)] for epoch in (first, again, second))
        assert rows == rows_again != other
        assert sorted(rows) == sorted(other) == whole
        resumed = [row for batch, _ in training_batches(train, gather, settings, CPU, 3, 0, skip=4) for row in rows_of(batch)]
        assert resumed == rows[200:]


def test_no_batch_sees_the_future(data: RankingData) -> None:
    gather = HistoryGather(data.clicks, LatestClicks(5), CPU)
    for part in (data.train, data.validation, data.test):
        for batch in batches(part, gather, 100, CPU):
            assert bool((batch.history_at < batch.at[:, None]).all())
    settings = Training(cut_histories=0.7, hidden_clicks=0.2)
    for batch, _ in training_batches(data.train, gather, settings, CPU, 1, 0):
        assert bool((batch.history_at < batch.at[:, None]).all())


def test_augmentation_shows_prefixes_and_hides_clicks() -> None:
    """One user with clicks 1 to 9 before 20,000 impressions: the last click seen says how long the prefix is."""
    clicks = ClickHistory.of(np.ones(9, dtype=np.int64), np.arange(1, 10), np.arange(9), user_count=2)
    rows = 20_000
    train = Examples(
        *(np.full(rows, value, kind) for value, kind in ((1, np.int32), (1, np.int32), (1, bool), (99, np.int64), (9, np.int64))),
        np.zeros((rows, 0), np.int16),
    )
    gather = HistoryGather(clicks, LatestClicks(9), CPU)
    ((cut, _),) = training_batches(train, gather, Training(batch_size=rows, cut_histories=0.5), CPU, 0, 0)
    lengths = torch.bincount(cut.history[:, -1], minlength=10) / rows
    assert torch.allclose(lengths, torch.tensor([0.05] * 9 + [0.55]), atol=0.01)
    assert all(line == [*[0] * (9 - line[-1]), *range(1, line[-1] + 1)] for line in cut.history[:100].tolist())
    ((hidden, _),) = training_batches(train, gather, Training(batch_size=rows, hidden_clicks=0.2), CPU, 0, 0)
    assert torch.allclose((hidden.history == 0).float().mean(0), torch.full((9,), 0.2), atol=0.02)
    assert torch.equal(hidden.history, torch.arange(1, 10) * (hidden.history > 0))
