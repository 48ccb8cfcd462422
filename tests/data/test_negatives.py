"""Negatives are videos that the user did not click, the same for any number of workers, and drawn as often as they should be."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Negatives, Ranker, Training
from rayrec.data.batches import Batch, training_batches
from rayrec.data.errors import DataError
from rayrec.data.examples import Examples
from rayrec.data.loading import RankingData
from rayrec.data.negatives import NegativeSampler, chosen, click_pairs, drawn_examples, history_pairs, together, with_pairs
from rayrec.data.windows import HistoryGather, LatestClicks
from tests.fixtures.ranking import prepared

CPU = torch.device("cpu")
FOUR = Negatives(count=4)


def sampler_of(data: RankingData, settings: Negatives = FOUR, published_at: np.ndarray | None = None) -> NegativeSampler:
    published_at = data.encoders.published_at if published_at is None else published_at
    return NegativeSampler.of(settings, click_pairs(data.train, len(data.items.ids)), published_at, CPU)


def training(data: RankingData, sampler: NegativeSampler, batch_size: int = 64, epoch: int = 1, skip: int = 0) -> list[Batch]:
    gather = HistoryGather(data.clicks, LatestClicks(5), CPU)
    found = training_batches(data.train, gather, Training(batch_size=batch_size), CPU, 3, epoch, skip, sampler)
    return [batch for batch, _ in found]


def drawn_by_row(batches: list[Batch]) -> dict[tuple[int, int, int], list[int]]:
    """What was drawn for each impression."""
    return {
        (user, at, row[0]): row[1:]
        for batch in batches
        for user, at, row in zip(batch.user.tolist(), batch.at.tolist(), batch.candidates.tolist(), strict=True)
    }


def test_every_click_gets_negatives_that_its_user_never_clicked(data: RankingData) -> None:
    clicked: dict[int, set[int]] = {}
    train = data.train
    assert isinstance(train, Examples)
    for user, item in zip(train.user[train.clicked].tolist(), train.item[train.clicked].tolist(), strict=True):
        clicked.setdefault(user, set()).add(item)
    for by in ("uniform", "popularity"):
        for batch in training(data, sampler_of(data, Negatives(count=4, by=by))):
            assert batch.labels is not None
            for user, label, row in zip(batch.user.tolist(), batch.labels.tolist(), batch.candidates.tolist(), strict=True):
                assert label[1:] == [0] * 4
                if label[0]:
                    assert all(0 < item < len(data.items.ids) and item not in clicked[user] for item in row[1:])
                else:
                    assert row[1:] == [0] * 4


def test_what_is_drawn_follows_from_seed_epoch_and_impression(data: RankingData) -> None:
    """Any number of workers, another size of the batch and a training that was resumed see the same negatives."""
    sampler = sampler_of(data)
    whole = drawn_by_row(training(data, sampler))
    assert drawn_by_row(training(data, sampler, batch_size=50)) == whole
    resumed = drawn_by_row(training(data, sampler, skip=3))
    assert 0 < len(resumed) < len(whole)
    assert all(whole[row] == drawn for row, drawn in resumed.items())
    assert drawn_by_row(training(data, sampler, epoch=2)) != whole
    train = data.train
    assert isinstance(train, Examples)
    parts = [replace(data, train=train.take(train.user % 2 == rank)) for rank in range(2)]
    shared = [drawn_by_row(training(part, sampler_of(part))) for part in parts]
    assert shared[0] | shared[1] == whole


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_videos_are_drawn_as_often_as_the_setting_says(by: str) -> None:
    """One user has clicked video 1 and others have clicked each video n up to 5 n times; 100,000 draws for a new user."""
    items = 6
    pairs = np.array(sorted({(user + 1) * items + item for item in range(1, items) for user in range(5 * item)}))
    sampler = NegativeSampler.of(Negatives(count=10, by=by), pairs, np.zeros(items, np.int64), CPU)
    rows = 10_000
    user, item, at = torch.full((rows,), 99), torch.ones(rows, dtype=torch.int64), torch.arange(rows)
    drawn = sampler.draw(user, item, at, torch.ones(rows, dtype=torch.bool), 0)
    share = np.bincount(drawn.flatten().numpy(), minlength=items)[1:] / drawn.numel()
    weights = np.arange(1, items) ** 0.75 if by == "popularity" else np.ones(items - 1)
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.005)


def test_videos_are_not_drawn_before_they_are_published(data: RankingData) -> None:
    published_at = np.where(np.arange(len(data.items.ids)) % 2, np.int64(300_000_000), 0)
    for (_, at, _), drawn in drawn_by_row(training(data, sampler_of(data, published_at=published_at))).items():
        assert all(published_at[item] <= at for item in drawn)


def test_a_user_who_clicked_everything_gets_none() -> None:
    sampler = NegativeSampler.of(FOUR, np.arange(1 * 4 + 1, 1 * 4 + 4), np.zeros(4, np.int64), CPU)
    one = torch.ones(2, dtype=torch.int64)
    drawn = sampler.draw(torch.tensor([1, 2]), one, one, one > 0, 0)
    assert drawn[0].tolist() == [0] * 4
    assert (drawn[1] > 0).all()


def test_clicks_of_examples_and_of_histories_are_the_same_pairs(data: RankingData) -> None:
    items = len(data.items.ids)
    pairs = with_pairs(with_pairs(click_pairs(data.train, items), data.validation, items), data.test, items)
    np.testing.assert_array_equal(pairs, history_pairs(data.clicks, items))


def test_drawn_examples_are_those_of_their_clicks_with_another_video(data: RankingData) -> None:
    clicks = data.validation.clicked.sum()
    drawn, place = drawn_examples(data.validation, sampler_of(data), 7)
    row = place // 4
    assert len(drawn) == 4 * clicks
    assert not drawn.clicked.any()
    assert data.validation.clicked[row].all()
    for name in ("user", "at", "end", "context"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(data.validation, name)[row])
    again, _ = drawn_examples(data.validation, sampler_of(data), 7)
    np.testing.assert_array_equal(drawn.item, again.item)
    both = together(data.validation, drawn)
    assert len(both) == len(data.validation) + len(drawn)
    np.testing.assert_array_equal(both.item, np.append(data.validation.item, drawn.item))


def test_negatives_of_a_page_are_what_was_not_clicked_on_it(raw: dict[str, pa.Table], settings: Ranker) -> None:
    log = raw["interactions"]
    rng = np.random.default_rng(5)
    requests = [None if number == 0 else f"r{number}" for number in rng.integers(0, 20, log.num_rows)]
    log = log.append_column("request_id", pa.array(requests))
    data = prepared(raw | {"interactions": log}, settings)
    train, pages = data.train, data.read_pages()
    assert isinstance(train, Examples)
    order = np.argsort(log["shown_at"].to_numpy(), kind="stable")[: len(train)]
    request = [requests[row] and (user, requests[row]) for user, row in zip(train.user.tolist(), order, strict=True)]
    clicked = set(zip(train.user[train.clicked].tolist(), train.item[train.clicked].tolist(), strict=True))
    passed: dict[object, set[int]] = {}
    for name, item, yes in zip(request, train.item.tolist(), train.clicked.tolist(), strict=True):
        passed.setdefault(name, set()).update([] if yes else [item])
    sampler = NegativeSampler.of(
        Negatives(count=20, by="page"), click_pairs(train, len(data.items.ids)), data.encoders.published_at, CPU, pages=pages
    )
    columns = (torch.from_numpy(column) for column in (train.user, train.item, train.at, train.clicked))
    user, item, at, label = columns
    drawn = sampler.draw(user.long(), item.long(), at, label, 0).tolist()
    for row, found in enumerate(drawn):
        allowed = {each for each in passed[request[row]] if (int(train.user[row]), each) not in clicked}
        if not train.clicked[row] or request[row] is None or not allowed:
            assert not any(found)
        else:
            assert {each for each in found if each} <= allowed
            assert any(found)
    assert sum(map(any, drawn)) > 50


def test_nothing_is_drawn_by_default_unless_there_are_clicks_alone() -> None:
    assert chosen(None, clicks_only=False) is None
    assert chosen(None, clicks_only=True) == Negatives(count=4, by="uniform")
    assert chosen(Negatives(count=0), clicks_only=False) is None
    assert chosen(Negatives(count=2), clicks_only=False) == Negatives(count=2)
    with pytest.raises(DataError, match="set a count of 1 or more, by uniform or popularity"):
        chosen(Negatives(count=0), clicks_only=True)
    with pytest.raises(DataError, match="no page has any"):
        chosen(Negatives(by="page"), clicks_only=True)
