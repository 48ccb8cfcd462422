"""The logit of popularity follows its formula, knows nothing of the future, and is the same wherever a ranker is used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.context import DAY_MS
from rayrec.data.loading import RankingData
from rayrec.data.popularity import DailyCounts, FadingCounts
from rayrec.ranking.popularity import Popularity
from rayrec.ranking.scorer import Scorer
from tests.data.test_popularity import HALF_LIVES, ITEMS, slow_counts, slow_sum
from tests.data.test_popularity import log as log
from tests.fixtures.ranking import joined, prepared
from tests.ranking.impressions import requests, untrained


def known(daily: DailyCounts) -> Popularity:
    return Popularity(FadingCounts.of(daily, HALF_LIVES, ITEMS), len(HALF_LIVES))


def test_the_numbers_are_those_of_the_formula(log: dict[str, np.ndarray]) -> None:
    counts, popularity = slow_counts(log), known(DailyCounts.of(**log))
    days = [99, 100, 104, 111, 125]
    found = popularity.numbers(torch.tensor(days) * DAY_MS + 7, torch.arange(ITEMS).expand(5, -1))
    behind_the_last = max(day for day, _ in counts) + 1
    for row, day in enumerate(min(day, behind_the_last) for day in days):
        for item in range(1, ITEMS):
            for life, half_life in enumerate(HALF_LIVES):
                shown, clicks = (slow_sum(counts, item, day, kind, half_life) for kind in (0, 1))
                all_shown, all_clicks = (slow_sum(counts, 0, day, kind, half_life) for kind in (0, 1))
                rate = (all_clicks + 1) / (all_shown + 1)
                expected = np.log((clicks + 1) / (all_clicks / (ITEMS - 1) + 1)), np.log((clicks / rate + 10) / (shown + 10))
                np.testing.assert_allclose(found[row, item, [life, life + len(HALF_LIVES)]].numpy(), expected, atol=1e-4)
    assert not found[:2].any()  # nothing is known on the first day


def test_what_happens_later_changes_nothing(log: dict[str, np.ndarray]) -> None:
    daily = DailyCounts.of(**log)
    at = torch.tensor([110 * DAY_MS + 12345])
    items = torch.arange(1, ITEMS)[None]
    whole, before = known(daily).numbers(at, items), known(daily.before(int(at))).numbers(at, items)
    assert torch.equal(whole, before)
    assert not torch.equal(whole, known(daily).numbers(at + DAY_MS, items))


def test_what_was_known_last_does_not_fade_while_nothing_more_is_known(log: dict[str, np.ndarray]) -> None:
    daily = DailyCounts.of(**log).before(110 * DAY_MS)
    at = torch.tensor([110, 111, 140]) * DAY_MS
    on_the_day, next_day, a_month_later = known(daily).numbers(at, torch.arange(1, ITEMS).expand(3, -1))
    assert on_the_day.any()
    assert torch.equal(on_the_day, next_day)
    assert torch.equal(on_the_day, a_month_later)


def test_an_item_without_counts_is_unknown_long_before_the_days_of_another_one() -> None:
    """Its row would be that of the other item, from whose day a fade back in time would be infinite."""
    daily = DailyCounts(*(np.array([value], np.int32) for value in (2000, 1, 5, 3)))  # one day of one item
    found = Popularity(FadingCounts.of(daily, [1.0], 3), 1).numbers(torch.tensor([10 * DAY_MS]), torch.tensor([[1, 2]]))
    assert not found.any()


@pytest.fixture
def knowing(settings: Ranker) -> Ranker:
    return settings.model_copy(update={"popularity": HALF_LIVES})


def test_it_is_added_to_the_logits_of_a_model(data: RankingData, knowing: Ranker) -> None:
    model = untrained("deepfm", data, knowing, spread=0.2).model.eval()
    batch = requests(data, knowing, 30)
    batch = replace(batch, at=batch.at + 4 * DAY_MS)
    assert model.popularity is not None
    added = model.popularity.numbers(batch.at, batch.candidates) @ model.popularity.weights.weight[0]
    assert added.std() > 0.01
    torch.testing.assert_close(model.score(batch), model(batch) + added)
    model.losses(batch).mean().backward()
    assert model.popularity.weights.weight.grad is not None


def test_a_saved_ranker_knows_what_it_knew(data: RankingData, knowing: Ranker, tmp_path: Path) -> None:
    scorer, batch = untrained("fm", data, knowing, spread=0.2), requests(data, knowing, 30)
    batch = replace(batch, at=batch.at + 4 * DAY_MS)
    scorer.save(pafs.LocalFileSystem(), str(tmp_path))
    loaded = Scorer.load(pafs.LocalFileSystem(), str(tmp_path))
    assert torch.equal(scorer.model.eval().score(batch), loaded.model.eval().score(batch))


def test_videos_keep_their_popularity_when_the_catalog_changes(raw: dict[str, pa.Table], knowing: Ranker) -> None:
    scorer = untrained("fm", prepared(raw, knowing), knowing, spread=0.2)
    items = joined(raw, knowing)
    new = items.slice(3, 1).set_column(0, "video_id", pa.array(["new"]))
    grown = scorer.with_items(pa.concat_tables([new, items]))  # in front, so that all indices shift
    past, times, at = [np.array([3, 7, 4])], [np.array([1, 2, 3])], np.array([4 * DAY_MS])
    before = scorer.score(["u1"], past, times, at, np.arange(1, 41)[None])[0]
    after = grown.score(["u1"], [past[0] + 1], times, at, np.arange(1, 42)[None])[0]
    np.testing.assert_allclose(after[1:], before, atol=1e-6)


def test_the_latest_counts_are_enough_after_the_last_day(data: RankingData, knowing: Ranker) -> None:
    scorer = untrained("fm", data, knowing, spread=0.2)
    assert scorer.popularity is not None
    latest = scorer.over(scorer.items, scorer.popularity.latest)
    batch = requests(data, knowing, 30)
    later = replace(batch, at=torch.full_like(batch.at, 400 * DAY_MS))
    assert torch.equal(scorer.model.eval().score(later), latest.model.eval().score(later))


@pytest.mark.parametrize("learned", [[], HALF_LIVES])
def test_a_page_multiplies_the_click_probability_by_recent_exposures(
    data: RankingData, settings: Ranker, learned: list[float]
) -> None:
    knowing = settings.model_copy(update={"popularity": learned, "shown_half_life": 5.0})
    scorer = untrained("fm", data, knowing, spread=0.2)
    model, batch = scorer.model.eval(), requests(data, knowing, 3)
    day = 4
    batch = replace(batch, at=torch.full_like(batch.at, day * DAY_MS))
    daily, items = data.daily, len(data.items.ids) - 1
    exposures = np.zeros(items + 1)
    for before, item, shown in zip(daily.day, daily.item, daily.exposures, strict=True):
        if before < day:
            exposures[[0, item]] += shown * 0.5 ** ((day - before) / 5)
    probabilities = model.score(batch).sigmoid().detach().numpy()
    expected = probabilities * (exposures[batch.candidates] * (batch.candidates > 0).numpy() + 1) / (exposures[0] / items + 1)
    known = (batch.candidates > 0).numpy()
    np.testing.assert_allclose(model.page_score(batch).exp().detach().numpy()[known], expected[known], rtol=1e-4)
    alone = untrained("fm", data, knowing.model_copy(update={"shown_half_life": None}), spread=0.2).model.eval()
    if learned:
        model.load_state_dict(alone.state_dict())  # the exposures of the page add no weights
        assert torch.equal(model.score(batch), alone.score(batch))
