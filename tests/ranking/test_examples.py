"""Examples: the split is by time, the rows are the log's, and batches carry them unchanged."""

import pytest
import torch

from rayrec.config import Ranker, Split
from rayrec.ranking.examples import batches, join_items, prepare
from rayrec.ranking.history import HistoryGather

CPU = torch.device("cpu")


def test_the_splits_follow_one_another_in_time_and_hold_the_whole_log(data, raw):
    parts = [data.train, data.validation, data.test]
    assert sum(len(part) for part in parts) == raw["interactions"].num_rows
    assert data.train.at.max() < data.validation.at.min()
    assert data.validation.at.max() < data.test.at.min()
    assert len(data.test) / raw["interactions"].num_rows == pytest.approx(0.2, abs=0.02)
    assert data.test_log["shown_at"].to_numpy().tolist() == data.test.at.tolist()


def test_batches_carry_the_logs_rows(data, raw):
    gather = HistoryGather(data.clicks, 5, CPU)
    seen = [
        (data.users.ids[u], data.items.ids[i], int(at), bool(label))
        for b in batches(data.test, gather, 64, CPU)
        for u, i, at, label in _rows(b)
    ]
    log = data.test_log
    expected = list(zip(*(log[name].to_pylist() for name in ("user_id", "video_id", "shown_at", "clicked")), strict=True))
    assert seen == expected


def test_no_batch_sees_the_future(data):
    gather = HistoryGather(data.clicks, 5, CPU)
    for part in (data.train, data.validation, data.test):
        for batch in batches(part, gather, 100, CPU):
            assert bool((batch.history_at < batch.at[:, None]).all())


def test_unseen_videos_and_users_are_unknown_but_keep_their_content(data, raw):
    trained = {data.items.ids[i] for i in data.train.item}
    video_number = dict(zip(data.items.ids, data.items.categorical["video_id"].tolist(), strict=True))
    assert {name for name, number in video_number.items() if number} == trained
    assert bool((data.items.multivalued["topics"][1:] > 0).any(-1).all())
    assert data.items.vectors["audio"][31:].abs().sum() == 0  # no audio: zeros, the mean of the standardised ones
    assert data.users.numeric["age"].shape == (len(data.users.ids),)


def test_a_log_that_is_too_short_is_refused(raw):
    items = join_items(raw["catalog"], None, None, [])
    for rows in (0, 2):
        with pytest.raises(ValueError, match="can't be split by time"):
            prepare(raw["interactions"].slice(0, rows), items, None, Ranker(), Split())


def _rows(batch):
    columns = (batch.user, batch.candidates[:, 0], batch.at, batch.labels[:, 0])
    return zip(*(column.tolist() for column in columns), strict=True)
