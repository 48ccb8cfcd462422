"""Examples: the split is by time, the rows are the log's, and batches carry them unchanged."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Ranker, Split, Training
from rayrec.data import blocks
from rayrec.data.blocks import block_numbers
from rayrec.data.examples import Examples, batches, item_columns, join_items, prepare, steps_of, training_batches
from rayrec.data.fields import DataError
from rayrec.data.history import ClickHistory, HistoryGather
from rayrec.training.exchange import Worker

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
    shares = [[row for b in batches(data.test, gather, 7, CPU, Worker(rank, 3)) for row in _rows(b)] for rank in range(3)]
    whole = [row for b in batches(data.test, gather, 64, CPU) for row in _rows(b)]
    assert shares == [whole[rank::3] for rank in range(3)]


def test_an_epoch_is_the_whole_split_in_an_order_of_its_own(data, monkeypatch):
    gather = HistoryGather(data.clicks, 5, CPU)
    settings = Training(batch_size=50)
    whole = sorted(row for b in batches(data.train, gather, 64, CPU) for row in _rows(b))
    for block_rows in (blocks.BLOCK_ROWS, 64):
        monkeypatch.setattr(blocks, "BLOCK_ROWS", block_rows)
        train = data.train.take(slice(None))
        first, again, second = (list(training_batches(train, gather, settings, CPU, 3, epoch)) for epoch in (0, 0, 1))
        sizes = [size for _, size in first]
        assert sizes == [len(b.user) for b, _ in first] == [50] * (len(train) // 50) + [len(train) % 50]
        assert len(sizes) == steps_of(train, settings)
        rows, rows_again, other = ([row for b, _ in epoch for row in _rows(b)] for epoch in (first, again, second))
        assert rows == rows_again != other
        assert sorted(rows) == sorted(other) == whole
        resumed = [row for b, _ in training_batches(train, gather, settings, CPU, 3, 0, skip=4) for row in _rows(b)]
        assert resumed == rows[200:]


def test_workers_share_each_batch_with_all_that_is_hidden_of_it(data, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    gather = HistoryGather(data.clicks, 5, CPU)
    settings = Training(batch_size=len(data.train) - 1, cut_histories=0.5, hidden_clicks=0.3)
    alone, *shares = (
        list(training_batches(data.train, gather, settings, CPU, 3, 1, worker)) for worker in (Worker(), Worker(0, 2), Worker(1, 2))
    )
    assert [size for _, size in alone] == [len(data.train) - 1, 1]
    assert len(shares[1][1][0].user) == 0
    for (whole, size), *parts in zip(alone, *shares, strict=True):
        for rank, (part, part_of) in enumerate(parts):
            assert part_of == size
            for name, column in vars(whole).items():
                assert torch.equal(column[rank::2], getattr(part, name)), name


def test_no_batch_sees_the_future(data):
    gather = HistoryGather(data.clicks, 5, CPU)
    for part in (data.train, data.validation, data.test):
        for batch in batches(part, gather, 100, CPU):
            assert bool((batch.history_at < batch.at[:, None]).all())
    settings = Training(cut_histories=0.7, hidden_clicks=0.2)
    for batch, _ in training_batches(data.train, gather, settings, CPU, 1, 0):
        assert bool((batch.history_at < batch.at[:, None]).all())


def test_augmentation_shows_prefixes_and_hides_clicks():
    """One user with clicks 1 to 9 before 20,000 impressions: the last click seen says how long the prefix is."""
    clicks = ClickHistory.of(np.ones(9, dtype=np.int64), np.arange(1, 10), np.arange(9), user_count=2)
    rows = 20_000
    train = Examples(
        *(np.full(rows, value, kind) for value, kind in ((1, np.int32), (1, np.int32), (1, bool), (99, np.int64), (9, np.int64))),
        np.zeros((rows, 0), np.int16),
    )
    gather = HistoryGather(clicks, 9, CPU)
    ((cut, _),) = training_batches(train, gather, Training(batch_size=rows, cut_histories=0.5), CPU, 0, 0)
    lengths = torch.bincount(cut.history[:, -1], minlength=10) / rows
    assert torch.allclose(lengths, torch.tensor([0.05] * 9 + [0.55]), atol=0.01)
    assert all(line == [*[0] * (9 - line[-1]), *range(1, line[-1] + 1)] for line in cut.history[:100].tolist())
    ((hidden, _),) = training_batches(train, gather, Training(batch_size=rows, hidden_clicks=0.2), CPU, 0, 0)
    assert torch.allclose((hidden.history == 0).float().mean(0), torch.full((9,), 0.2), atol=0.02)
    assert torch.equal(hidden.history, torch.arange(1, 10) * (hidden.history > 0))


def test_a_block_is_a_sample_of_the_log():
    numbers = block_numbers(0, 10_000, 10)
    assert np.bincount(numbers).tolist() == pytest.approx([1000] * 10, rel=0.15)
    assert [np.flatnonzero(numbers == block).mean() for block in range(10)] == pytest.approx([5000] * 10, rel=0.1)
    assert np.array_equal(block_numbers(300, 500, 10), numbers[300:500])


def test_an_example_takes_at_most_40_bytes(data, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    train = data.train.take(slice(None))
    columns, order = train._resident(CPU)
    for tensor, array in zip(columns, train.columns, strict=True):
        assert tensor.data_ptr() == array.ctypes.data  # not copied
    assert sum(column.nbytes for column in columns) + order.nbytes == len(train) * (25 + 2 * 2 + 4) < len(train) * 40


def test_unseen_videos_and_users_are_unknown_but_keep_their_content(data, raw):
    trained = {data.items.ids[i] for i in data.train.item}
    video_number = dict(zip(data.items.ids, data.items.categorical["video_id"].tolist(), strict=True))
    assert {name for name, number in video_number.items() if number} == trained
    assert bool((data.items.multivalued["topics"][1:] > 0).any(-1).all())
    assert data.items.vectors["audio"][31:].abs().sum() == 0  # no audio: zeros, the mean of the standardised ones
    assert data.users.numeric["age"].shape == (len(data.users.ids),)


def test_the_order_of_the_given_log_does_not_matter(data, raw, settings):
    log = raw["interactions"]
    times, first = np.unique(log["shown_at"].to_numpy(), return_index=True)  # without ties
    log = log.take(pa.array(np.sort(first)))
    items = join_items(raw["catalog"], raw["topics"], raw["vectors"], list(settings.modalities))
    given, ordered = (prepare(rows, items, raw["users"], settings, Split()) for rows in (log, log.sort_by("shown_at")))
    assert given.train.at.tolist() == times[: len(given.train)].tolist()
    ids = [[[found.items.ids[i] for i in getattr(found, part).item] for part in ("train", "test")] for found in (given, ordered)]
    assert ids[0] == ids[1]
    assert given.test.end.tolist() == ordered.test.end.tolist()


@pytest.mark.parametrize(
    ("times", "sentence"),
    [([], "0 rows can't be split"), ([0, 1], "none is left for"), ([0] * 30 + [1] * 30, r"none is left for validation \(split.v")],
)
def test_a_log_that_leaves_a_split_empty_is_refused(raw, times, sentence):
    log = raw["interactions"].slice(0, len(times))
    log = log.set_column(log.column_names.index("shown_at"), "shown_at", pa.array(times, pa.int64()))
    with pytest.raises(DataError, match=sentence):
        prepare(log, raw["catalog"], None, Ranker(), Split())


@pytest.mark.parametrize("clicked", [True, False])
def test_a_training_split_with_one_label_is_refused(raw, clicked):
    log = raw["interactions"].sort_by("shown_at")
    labels = pa.array([clicked] * 540 + [not clicked] * 60)
    log = log.set_column(log.column_names.index("clicked"), "clicked", labels)
    with pytest.raises(DataError, match="every one was clicked" if clicked else "none was clicked"):
        prepare(log, raw["catalog"], None, Ranker(), Split())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"item_fields": ["autor_id"]}, r"ranker.item_fields: the catalog has no column 'autor_id'; did you mean 'author_id'\?"),
        ({"context_fields": ["devise"]}, r"ranker.context_fields: the log has no column 'devise'; did you mean 'device'\?"),
        ({"modalities": ["motion"]}, r"ranker.modalities: no video has a vector 'motion' in `vectors` \(there are: cover, audio\)"),
    ],
)
def test_settings_that_name_what_is_not_there_are_refused(raw, settings, sentence):
    vectors = raw["vectors"].append_column("motion", pa.nulls(30, pa.list_(pa.float32())))
    items = join_items(raw["catalog"], None, vectors, ["audio", "cover", "motion"])
    with pytest.raises(DataError, match=sentence):
        prepare(raw["interactions"], items, None, Ranker(**settings), Split())


def test_numbers_that_are_not_finite_are_refused_with_their_place(raw):
    users = pa.table({"user_id": ["u1", "u2"], "age": [20.0, float("nan")]})
    with pytest.raises(DataError, match="column 'age' of user_id 'u2' holds nan"):
        prepare(raw["interactions"], raw["catalog"], users, Ranker(), Split())
    vectors = pa.table({"video_id": ["v3"], "audio": pa.array([[1.0, float("inf")]], pa.list_(pa.float32()))})
    items = join_items(raw["catalog"], None, vectors, ["audio"])
    with pytest.raises(DataError, match="column 'audio' of video_id 'v3' holds inf"):
        prepare(raw["interactions"], items, None, Ranker(modalities=["audio"]), Split())


def test_a_catalog_column_without_values_is_left_out(raw):
    catalog = raw["catalog"].append_column("primary_class", pa.nulls(raw["catalog"].num_rows, pa.string()))
    assert item_columns(Ranker(item_fields=["primary_class", "secondary_class", "tags"]), catalog) == ["video_id", "tags"]


def _rows(batch):
    columns = (batch.user, batch.candidates[:, 0], batch.at, batch.labels[:, 0])
    return zip(*(column.tolist() for column in columns), strict=True)
