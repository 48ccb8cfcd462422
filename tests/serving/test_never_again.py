"""What a user has seen is not shown again for `recall.seen_days`; and no page is short while there is anything to show."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from rayrec.config import Config, with_values
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.pipeline import ScoreError
from rayrec.serving.bundle import Bundle
from rayrec.serving.pages import AGAIN, Page
from rayrec.serving.recommender import DELIVERED_MS, Recommender, UserState
from rayrec.serving.seen_index import SeenIndex, longest_unseen
from rayrec.serving.state import seen as seen_module
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import DAY, Event, Kind, StateStore
from rayrec.serving.user_log import USERS, UserLogs
from tests.serving.small_world import rank_by_number, video

START, SEEN_DAYS, VIDEOS = 20_000 * DAY, 7, 40
Day = int


@dataclass
class Reference:
    """Sets and times: on which days a user saw each video, and when it was delivered last."""

    seen: dict[str, list[Day]] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)

    def hidden(self, now: int, reported: bool) -> set[str]:
        first = (now - SEEN_DAYS * DAY) // DAY
        late = {each for each, at in self.delivered.items() if reported and at >= now - DELIVERED_MS}
        return {each for each, days in self.seen.items() if max(days) >= first} | late


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    now = [START]
    monkeypatch.setattr("rayrec.serving.recommender.now_ms", lambda: now[0])
    return now


def nobody_in_the_log(bundle: Bundle, order: list[int] | None = None) -> Bundle:
    """A bundle whose log knows nobody, with the videos of the catalog in another order."""
    items = bundle.items if order is None else bundle.items.take(order)
    return replace(bundle, items=items.combine_chunks(), users=UserLogs(USERS.empty_table()), version=str(order))


def recommending(bundle: Bundle, store: StateStore, config: Config) -> Recommender:
    recall = config.recall.model_copy(update={"seen_days": SEEN_DAYS})
    return Recommender(bundle, store, rank_by_number, recall, config.selection, seed=0)


def ask(recommender: Recommender, user: str, k: int, exclude: list[str] | None = None) -> tuple[Page, list[str], list[str]]:
    """A page, its videos that the user had not seen, and those that come again."""
    page = asyncio.run(recommender.recommend(user, k, exclude or []))
    ids = recommender.items.ids(page.items)
    assert len(set(ids)) == len(ids)
    return page, *([each for each, why in zip(ids, page.why, strict=True) if (why == AGAIN) == again] for again in (False, True))


@pytest.mark.parametrize("views", ["assumed", "reported"])
def test_pages_agree_with_sets_and_times(state: Config, published: Config, bundle: Bundle, clock: list[int], views: str) -> None:
    """Two replicas on one store; one is restarted now and then, the other swaps to a bundle with another catalog order."""
    config, rng, reported = with_values(state, {"serving.views": views}), random.Random(views), views == "reported"
    orders = [None, list(range(VIDEOS))[::-1], rng.sample(range(VIDEOS), VIDEOS)]
    bundles = [nobody_in_the_log(bundle, order) for order in orders]
    stores = [open_store(config), open_store(config)]
    replicas = [recommending(bundles[0], store, published) for store in stores]
    people, repeats = {f"p{n}": Reference() for n in range(3)}, 0
    for number in range(140):
        clock[0] += rng.choice([1000, 60_000, DAY // 3])
        if number % 10 == 5:
            replicas[1] = recommending(rng.choice(bundles), stores[1], published)
        if number % 17 == 8:
            stores[0].close()
            stores[0] = open_store(config)
            replicas[0] = recommending(bundles[0], stores[0], published)
        user, k = rng.choice(sorted(people)), rng.randrange(1, 9)
        known, replica = people[user], replicas[number % 2]
        hidden = known.hidden(clock[0], reported)
        page, new, again = ask(replica, user, k)
        assert not hidden & set(new)
        assert len(new) == min(k, VIDEOS - len(hidden))
        assert len(new) + len(again) == k
        assert set(again) <= hidden
        repeats += len(again)
        _look(replica, known, user, page, [*new, *again], clock[0], rng, reported)
    assert repeats > 20  # the catalog is small
    for store in stores:
        store.close()


def _look(
    replica: Recommender, known: Reference, user: str, page: Page, ids: list[str], now: int, rng: random.Random, reported: bool
) -> None:
    """The user sees some of a page and says so in one of several ways; others stay below the fold."""
    events = []
    for each in ids:
        known.delivered[each] = now
        kind: Kind | None = rng.choice(["view", "view", "skip", "click", None])
        if kind:
            events.append(Event(f"{page.request_id}-{each}", user, each, kind, now, page.request_id))
        if kind or not reported:
            known.seen.setdefault(each, []).append(now // DAY)
    asyncio.run(replica.add_events(events))


def test_the_longest_unseen_come_again_and_no_page_is_empty(
    recommender: Recommender, bundle: Bundle, published: Config, clock: list[int]
) -> None:
    small = recommending(nobody_in_the_log(bundle), recommender.store, published)
    order: list[str] = []
    for _ in range(10):
        clock[0] += 60_000
        order += ask(small, "ann", 4)[1]
    assert sorted(order) == sorted(map(video, range(VIDEOS)))
    for turn in range(8):
        clock[0] += 60_000
        page, new, again = ask(small, "ann", 5)
        assert (new, again, page.why.tolist()) == ([], order[turn * 5 : turn * 5 + 5], [AGAIN] * 5)


def test_what_is_excluded_blocked_or_withdrawn_does_not_come_again(
    recommender: Recommender, bundle: Bundle, published: Config, clock: list[int]
) -> None:
    small = recommending(nobody_in_the_log(bundle), recommender.store, published)
    ask(small, "ann", VIDEOS)
    small.store.withdraw(video(3), True)
    small.refresh(clock[0] + 1)
    clock[0] += 60_000
    page = asyncio.run(small.recommend("ann", VIDEOS, [video(1), video(2)], ["a0"]))
    theirs = {video(n) for n in range(0, 32, 5)}
    assert set(small.items.ids(page.items)) == {video(n) for n in range(VIDEOS)} - theirs - {video(1), video(2), video(3)}
    assert set(page.why.tolist()) == {AGAIN}
    assert np.isfinite(page.scores).all()
    assert page.scores.tolist() == (page.items.astype(np.float32) / 100).tolist()


@pytest.mark.parametrize("wrong", [lambda scores: scores * np.nan, lambda scores: scores + np.inf, lambda scores: scores[1:]])
def test_what_comes_again_is_scored_or_refused(
    recommender: Recommender, bundle: Bundle, published: Config, clock: list[int], wrong: Callable[[np.ndarray], np.ndarray]
) -> None:
    """No page is answered whose scores are not numbers, and nothing of it counts as delivered."""
    small = recommending(nobody_in_the_log(bundle), recommender.store, published)
    ask(small, "ann", VIDEOS - 2)
    clock[0] += 60_000
    new = set(range(VIDEOS + 1)) - set(small.user("ann").seen.tolist())

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        scores = await rank_by_number(user_id, user, at, candidates, context)
        return scores if new.issuperset(candidates.tolist()) else wrong(scores)

    small.rank = rank
    before = small.store.latest()
    with pytest.raises(ScoreError, match="does not fit the videos that come again"):
        ask(small, "ann", 5)
    assert small.store.latest() == before
    assert len(ask(small, "ann", 2)[1]) == 2  # what the user has not seen is still there, and has scores


def test_more_than_the_last_2000_are_remembered(recommender: Recommender, clock: list[int]) -> None:
    """A video that was seen first, and then thousands of others, among them many that the bundle no longer has."""
    store = recommender.store
    store.add_events([Event("first", "ann", video(5), "skip", START)])
    store.add_events([Event(f"e{n}", "ann", f"gone-{n}", "impression", START + 1 + n) for n in range(5000)])
    clock[0] += DAY
    assert recommender.items.ids(recommender.user("ann").seen) == [video(5)]
    clock[0] += 91 * DAY
    assert recommender.user("ann").seen.tolist() == []


def test_what_the_log_shows_a_user_comes_before_what_was_seen_online(recommender: Recommender, clock: list[int]) -> None:
    of_log = recommender.bundle.user("u1").seen
    recommender.store.add_events([Event("a", "u1", video(39), "impression", START), Event("b", "u1", video(38), "like", START)])
    assert recommender.user("u1").seen.tolist() == [*of_log.tolist(), 40, 39]


def test_videos_with_the_same_code_are_seen_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only error there is: a video that was not seen is taken for one that was."""
    few: Callable[[str], bytes] = lambda video_id: bytes([len(video_id), 0, 0, 0])  # noqa: E731
    monkeypatch.setattr(seen_module, "code", few)
    index = SeenIndex.of(["a", "bb", "c", "dddd"]).grown(["ee", "f"], first=5)
    assert index.find(few("xx") + few("xxx") + few("x")).tolist() == [2, 5, 1, 3, 6]
    assert index.find(b"").tolist() == []


def test_the_index_finds_what_a_dictionary_finds() -> None:
    rng = random.Random(0)
    ids = [f"video-{n}" for n in range(5000)]
    index = SeenIndex.of(ids[:4000]).grown(ids[4000:4500], first=4001).grown(ids[4500:], first=4501)
    wanted = rng.sample(range(5000), 700)
    found = index.find(b"".join(seen_module.code(ids[n]) for n in wanted) + seen_module.code("nobody's"))
    assert found.tolist() == [n + 1 for n in wanted]
    assert np.array_equal(np.sort(index.codes), index.codes)


def test_of_an_item_that_was_seen_twice_the_last_time_counts() -> None:
    seen = np.array([3, 1, 2, 3, 5, 1], np.int32)
    allowed = Exclusions.of(np.array([5], np.int32))
    assert longest_unseen(seen, allowed, lambda items: items != 9, 9).tolist() == [2, 3, 1]
    assert longest_unseen(seen, allowed, lambda items: items == 3, 9).tolist() == [3]
    assert longest_unseen(seen[:0], allowed, lambda items: items > 0, 9).tolist() == []
