"""Which users are evaluated, what may be on their pages, and how good a page is."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Ranker, Split
from rayrec.data.loading import RankingData, prepare
from rayrec.evaluation.pages import Counters, TestUser, find_test_users, page_metrics, ranked_pages
from rayrec.evaluation.popularity import click_rate


@pytest.fixture
def data() -> RankingData:
    """u1 saw a, b, c before the test period and a, d, e in it; u2 clicks nothing new; u3 is new."""
    rows = [
        ("u1", "a", 1, True), ("u1", "b", 2, False), ("u2", "c", 3, True), ("u2", "d", 4, False),
        ("u1", "c", 5, True), ("u2", "a", 6, True), ("u1", "a", 7, True), ("u1", "d", 8, True),
        ("u1", "e", 9, False), ("u2", "c", 10, True), ("u3", "e", 11, True), ("u3", "b", 12, True),
    ]  # fmt: skip
    users, videos, at, clicked = zip(*rows, strict=True)
    devices = [{1: "phone", 7: "phone", 8: "tv"}.get(moment) for moment in at]
    log = pa.table({"user_id": users, "video_id": videos, "shown_at": at, "clicked": clicked, "device": devices})
    settings, split = Ranker(context_fields=["hour", "device"]), Split(validation=0.2, test=0.5)
    return prepare(log, pa.table({"video_id": list("abcde")}), None, settings, split)


def test_users_who_are_evaluated_have_something_new_to_find(data: RankingData) -> None:
    published = np.zeros(6, dtype=np.int64)
    published[5] = 10  # e came after u1's first test impression
    test_users = find_test_users(data, published, 7)
    names = {data.users.ids[user.user]: user for user in test_users}
    assert set(names) == {"u1", "u3"}
    one, three = names["u1"], names["u3"]
    assert [data.items.ids[i] for i in one.history] == ["a", "c"]
    assert one.history_at.tolist() == [1, 5]
    assert one.context == {"device": "phone"}
    assert [data.items.ids[i] for i in one.excluded] == ["a", "b", "c", "e"]
    assert [data.items.ids[i] for i in one.relevant] == ["d"]
    assert one.at == 7
    assert [data.items.ids[i] for i in three.relevant] == ["b", "e"]
    assert len(three.history) == len(three.excluded) == 0


def test_counters_and_popularity_know_only_what_was_before(data: RankingData) -> None:
    counters = Counters.of(data)
    assert counters.exposures.tolist() == [0, 2, 1, 2, 1, 0]
    assert counters.clicks.tolist() == [0, 2, 0, 2, 0, 0]
    score = click_rate(counters.exposures, counters.clicks)
    assert score[5] == pytest.approx(4 / 6)  # never shown: the mean of all
    assert score[1] == pytest.approx((2 + 10 * 4 / 6) / 12)


def test_pages_never_hold_what_is_excluded_and_are_measured(data: RankingData) -> None:
    test_users = find_test_users(data, np.zeros(6, dtype=np.int64), 7)
    pages = ranked_pages(test_users, lambda user: np.arange(6.0), k=2)
    assert [[data.items.ids[i] for i in page] for page in pages] == [["e", "d"], ["e", "d"]]
    metrics = page_metrics(test_users, pages, k=2)
    assert metrics["recall"] == pytest.approx((1 + 1 / 2) / 2)
    second, ideal = 1 / np.log2(3), 1 + 1 / np.log2(3)
    assert metrics["ndcg"] == pytest.approx((second + 1 / ideal) / 2)
    assert np.isnan(page_metrics([], [], k=2)["recall"])


@pytest.mark.parametrize("k", [1, 3, 50, 51, 80])
def test_ranked_pages_are_those_of_a_full_sort_and_do_not_keep_it(k: int) -> None:
    rng = np.random.default_rng(k)
    users = [user(excluded=rng.integers(0, 51, 5)) for _ in range(20)]
    scores = {number: rng.integers(0, 8, 51).astype(float) for number in range(20)}  # many are equal
    pages = ranked_pages([replace(each, user=number) for number, each in enumerate(users)], lambda each: scores[each.user], k)
    for number, page in enumerate(pages):
        score = scores[number].copy()
        score[[0, *users[number].excluded]] = -np.inf
        assert page.tolist() == np.argsort(-score, kind="stable")[:k].tolist()
    million = ranked_pages(users[:1], lambda each: rng.random(1_000_000), 10)[0]
    assert (million if million.base is None else million.base).nbytes < 1000


def user(excluded: np.ndarray) -> TestUser:
    nothing = np.empty(0, np.int32)
    return TestUser(0, 0, nothing, nothing.astype(np.int64), {}, excluded, np.array([1]))
