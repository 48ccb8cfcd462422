"""What a user says of videos changes the next page, in both stores and whoever answers."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rayrec.config import Config, Recall
from rayrec.recall.pipeline import RecallPipeline
from rayrec.serving import recommender as module
from rayrec.serving.bundle import Bundle
from rayrec.serving.http.answers import page as answer_of
from rayrec.serving.pages import AGAIN, Page
from rayrec.serving.recommender import Recommender, UserState, now_ms
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event, StateStore
from tests.serving.small_world import author_of, topic_of, video

DAY = 86_400_000
Make = Callable[..., Recommender]


async def rank_alike(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """A ranker for which all videos are nearly alike, but those of topic 1 and those of author a2 are better."""
    numbers = candidates - 1
    return (0.1 + 0.1 * (numbers % 4 == 1) + 0.1 * (numbers % 5 == 2) - numbers / 10_000).astype(np.float32)


@pytest.fixture
def store(state: Config) -> Iterator[StateStore]:
    opened = open_store(state)
    yield opened
    opened.close()


@pytest.fixture
def make(bundle: Bundle, published: Config, store: StateStore) -> Make:
    """Recommenders over the same store, as replicas are."""

    def made(bundle: Bundle = bundle, **changes: object) -> Recommender:
        recall = Recall.model_validate(published.recall.model_dump() | changes)
        return Recommender(bundle, store, rank_alike, recall, published.selection, seed=0)

    return made


def say(store: StateStore, user: str, kind: str, number: int, at: int | None = None) -> None:
    moment = now_ms() if at is None else at
    store.add_events([Event(f"{kind}-{number}-{moment}", user, video(number), kind, moment)])  # type: ignore[arg-type]


def preview(recommender: Recommender, user: str, k: int = 10) -> Page:
    return asyncio.run(recommender.preview(user, k))


def numbers(recommender: Recommender, page: Page) -> list[int]:
    return [int(video_id[1:]) for video_id in recommender.items.ids(page.items)]


def share(found: list[int], is_it: Callable[[int], bool]) -> float:
    return sum(map(is_it, found)) / len(found)


def on_topic_1(number: int) -> bool:
    return topic_of(number) == 1


def of_a2(number: int) -> bool:
    return author_of(number) == "a2"


@pytest.mark.parametrize(
    ("kind", "number", "is_it"),
    [("less_topic", 33, on_topic_1), ("less_author", 2, of_a2), ("block_author", 2, of_a2)],
)
@pytest.mark.parametrize("user", ["new", "u1"])  # whose clicks are all on topic 1
def test_after_one_wish_for_less_there_is_next_to_none_on_the_next_page(
    make: Make, store: StateStore, kind: str, number: int, is_it: Callable[[int], bool], user: str
) -> None:
    recommender, other = make(), make()
    before = share(numbers(recommender, preview(recommender, user)), is_it)
    assert before > 0.15
    say(store, user, kind, number)
    for replica in (recommender, other, make()):  # that asked before, and that start later
        page = preview(replica, user)
        assert len(page.items) == 10
        assert share(numbers(replica, page), is_it) <= 0.2 * before
        assert page.scores.tolist() == asyncio.run(rank_alike("", replica.user(user), 0, page.items, {})).tolist()


def test_after_one_like_there_is_more_of_it(make: Make, store: StateStore) -> None:
    recommender = make()
    before = numbers(recommender, preview(recommender, "new"))
    say(store, "new", "like", 34)  # on topic 2
    page = preview(recommender, "new")
    after = numbers(recommender, page)
    assert share(after, lambda number: topic_of(number) == 2) > share(before, lambda number: topic_of(number) == 2)
    assert "topic" in page.why  # recall searches the topic, although nothing was clicked
    say(store, "new", "undo", 34)
    assert numbers(recommender, preview(recommender, "new")) == [each for each in before if each != 34]


def test_not_interested_and_a_skip_push_similar_videos_back(make: Make, store: StateStore) -> None:
    recommender = make()
    first = numbers(recommender, preview(recommender, "ann", 40))
    for kind in ("skip", "not_interested"):
        say(store, kind, kind, 33)
        after = numbers(recommender, preview(recommender, kind, 40))
        places = [np.mean([found.index(n) for n in after if on_topic_1(n)]) for found in (first, after)]
        assert places[1] > places[0]
        page = preview(recommender, kind, 40)
        assert video(33) not in recommender.items.ids(page.items[page.why != AGAIN])
    assert video(33) not in recommender.items.ids(page.items)  # not even again


def test_others_get_the_same_bytes_as_ever(make: Make, store: StateStore) -> None:
    recommender = make()
    say(store, "ann", "less_topic", 33)
    say(store, "ann", "like", 34)

    def answered(without: bool) -> bytes:
        page = asyncio.run((make(feedback=None) if without else recommender).preview("bob", 10, draw_seed=3))
        page = replace(page, request_id="r", trace=module.Trace())
        return answer_of(recommender, page, "stable", {}, debug=True, trusted=False)

    assert answered(without=False) == answered(without=True)
    assert b'"feedback"' not in answered(without=False)


def test_a_wish_fades_with_its_half_life(make: Make, store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender, now = make(), now_ms()
    say(store, "new", "less_topic", 33, at=now)
    usual = asyncio.run(recommender.preview("other", 10, [video(33)]))
    shares, factors = [], []
    for half_lives in range(20):
        monkeypatch.setattr(module, "now_ms", lambda ahead=half_lives: now + ahead * 30 * DAY)
        page = preview(recommender, "new", 40)
        shares.append(share(numbers(recommender, page)[:10], on_topic_1))
        assert page.feedback is not None
        factors.append(page.feedback.logarithms(recommender.items.find_all([video(1)]))[0])
    assert factors == pytest.approx([-6 * 0.5**n for n in range(20)])
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == share(numbers(recommender, usual), on_topic_1) > 0.3


def test_a_block_holds_until_it_is_taken_back(make: Make, store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender, now = make(), now_ms()
    say(store, "new", "block_author", 2)
    monkeypatch.setattr(module, "now_ms", lambda: now + 10_000 * DAY)
    store.prune(now + 5_000 * DAY, now + 5_000 * DAY)
    for replica in (recommender, make(feedback=None)):
        assert not [n for n in numbers(replica, preview(replica, "new", 40)) if of_a2(n)]
    assert [n for n in numbers(recommender, preview(recommender, "other", 40)) if of_a2(n)]
    say(store, "new", "unblock_author", 7)  # of the same author
    assert [n for n in numbers(recommender, preview(recommender, "new", 40)) if of_a2(n)]


def test_a_wish_is_about_the_video_whatever_number_its_topic_has_in_another_bundle(
    make: Make, store: StateStore, bundle: Bundle
) -> None:
    turned = replace(bundle, items=_with_turned_topics(bundle))
    say(store, "new", "less_topic", 33)
    found = numbers(make(), preview(make(), "new"))
    after_swap = numbers(make(turned), preview(make(turned), "new"))
    assert not [n for n in [*found, *after_swap] if on_topic_1(n)]


def _with_turned_topics(bundle: Bundle) -> Any:
    """The items with topic 3 - t in place of topic t."""
    import pyarrow as pa

    column = bundle.items.column_names.index("topics")
    turned = [[3 - topic for topic in topics] for topics in bundle.items["topics"].to_pylist()]
    return bundle.items.set_column(column, bundle.items.schema.field("topics"), pa.array(turned, bundle.items["topics"].type))


def test_who_is_forgotten_has_said_nothing(make: Make, store: StateStore) -> None:
    recommender = make()
    before = numbers(recommender, preview(recommender, "new"))
    for kind, number in (("less_topic", 33), ("block_author", 2), ("like", 34)):
        say(store, "new", kind, number)
    assert numbers(recommender, preview(recommender, "new")) != before
    assert store.forget("new") == 3
    assert recommender.user("new").said == ()
    assert numbers(recommender, preview(recommender, "new")) == before


def test_videos_that_are_unknown_to_the_bundle_do_no_harm(make: Make, store: StateStore) -> None:
    recommender = make()
    before = numbers(recommender, preview(recommender, "new"))
    say(store, "new", "less_topic", 999)
    say(store, "new", "undo", 999)
    assert recommender.user("new").said == ()
    assert numbers(recommender, preview(recommender, "new")) == before


def test_vectors_of_items_are_those_of_the_bundle(make: Make) -> None:
    items = make().items
    found = items.vectors_of(np.array([3, 1]))
    assert found is not None
    assert items.bundle.vectors is not None
    assert np.array_equal(found, items.bundle.vectors[[2, 0]])
    pipeline = next(iter(make().view.pipelines.values()))
    assert isinstance(pipeline, RecallPipeline)
