"""What a user said of videos, against a slow computation of the same from its description."""

import math

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import FeedbackEffects, Recall, Selection
from rayrec.recall.feedback import Feedback, Said, blocked_authors, standing, unwanted
from rayrec.recall.pipeline import RecallPipeline, Trace
from rayrec.recall.queues import ItemTopics
from tests.recall.small_catalog import ITEMS, make_queues, query

DAY = 86_400_000
NOW = 1_700_000_000_000
EFFECTS = FeedbackEffects()
KINDS = list(FeedbackEffects.model_fields)[:5]
COUNT = 60  # items, with item 0
LISTS = [None, *([item % 7, (item + 3) % 7] if item % 3 else [item % 7] if item % 4 else [] for item in range(1, COUNT))]
TOPICS = ItemTopics.of_lists(pa.array(LISTS, pa.list_(pa.int32())))
AUTHORS = np.arange(COUNT, dtype=np.int32) % 6  # 0 is unknown
EVERYTHING = np.arange(1, COUNT)


def vectors() -> np.ndarray:
    """Of items 0 to COUNT; every tenth has none."""
    drawn = np.random.default_rng(1).normal(size=(COUNT, 3))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn[::10] = 0
    return drawn.astype(np.float32)


def cosine(item: int, other: int, rows: np.ndarray | None) -> float:
    if rows is not None:
        return float(rows[item] @ rows[other])
    one, two = set(LISTS[item] or []), set(LISTS[other] or [])
    return len(one & two) / math.sqrt(len(one) * len(two)) if one and two else 0.0


def slowly(said: list[Said], item: int, rows: np.ndarray | None) -> float:
    """The logarithm of an item's factor, as the config's comments say it."""
    total = 0.0
    for kind in KINDS:
        effect = getattr(EFFECTS, kind)
        on_topic: dict[int, float] = {}
        author = near = 0.0
        for each in said:
            if each.kind == kind:
                weight = 0.5 ** ((NOW - each.at) / DAY / effect.half_life_days)
                for topic in (LISTS[each.item] or [])[:1]:
                    on_topic[topic] = on_topic.get(topic, 0.0) + weight
                author += weight * (AUTHORS[each.item] == AUTHORS[item] != 0)
                near += weight * min(1, max(0, (cosine(item, each.item, rows) - EFFECTS.near_from) / (1 - EFFECTS.near_from)))
        topic_sum = max([on_topic.get(topic, 0.0) for topic in LISTS[item] or []], default=0.0)
        for strength, amount in ((effect.topic, topic_sum), (effect.author, author), (effect.near, near)):
            total += strength * min(EFFECTS.repeats, amount)
    return total


def feedback_of(said: list[Said], now: int = NOW, rows: np.ndarray | None = None) -> Feedback:
    found = Feedback.of(said, now, EFFECTS, TOPICS, AUTHORS, lambda items: None if rows is None else rows[items])
    assert found is not None
    return found


@pytest.mark.parametrize("by_vectors", [True, False])
def test_all_kinds_together_are_what_a_slow_computation_gives(by_vectors: bool) -> None:
    rng, rows = np.random.default_rng(0), vectors() if by_vectors else None
    for size in (1, 3, 40):
        said = [
            Said(str(rng.choice(KINDS)), int(rng.integers(1, COUNT)), NOW - int(rng.integers(0, 60 * DAY))) for _ in range(size)
        ]
        found = feedback_of(said, rows=rows).logarithms(EVERYTHING)
        assert found == pytest.approx([slowly(said, item, rows) for item in EVERYTHING.tolist()], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_effect_halves_with_each_half_life(kind: str) -> None:
    days = getattr(EFFECTS, kind).half_life_days
    said = [Said(kind, 1, NOW)]
    fresh = feedback_of(said, rows=vectors()).logarithms(EVERYTHING)
    assert np.abs(fresh).max() > 0.05
    for times in (1, 2, 5):
        later = feedback_of(said, NOW + round(times * days * DAY), vectors()).logarithms(EVERYTHING)
        assert later == pytest.approx(fresh / 2**times, abs=1e-6)


def test_the_clock_of_a_caller_that_is_ahead_makes_nothing_stronger() -> None:
    ahead = feedback_of([Said("less_author", 1, NOW + DAY)]).logarithms(EVERYTHING)
    assert ahead.tolist() == feedback_of([Said("less_author", 1, NOW)]).logarithms(EVERYTHING).tolist()


def test_what_is_said_again_and_again_has_a_bound() -> None:
    said = [Said("like", item, NOW) for item in range(1, COUNT, 7)]  # all on topic 1
    assert len(said) > EFFECTS.repeats
    topic, author = EFFECTS.like.topic, EFFECTS.like.author
    assert feedback_of(said).logarithms(EVERYTHING).max() <= EFFECTS.repeats * (topic + author + EFFECTS.like.near) + 1e-9
    before = feedback_of(said).logarithms(np.array([8]))
    after = feedback_of([*said, Said("less_topic", 8, NOW)]).logarithms(np.array([8]))
    assert after - before == pytest.approx(EFFECTS.less_topic.topic)  # no number of likes hides a wish for less


def test_a_score_goes_down_whatever_its_sign() -> None:
    scores = np.array([0.5, 0.0, -0.5], np.float32)
    lowered = feedback_of([Said("like", 1, NOW)]).applied(scores, np.full(3, -1.0))
    assert lowered.tolist() == pytest.approx([0.5 / math.e, 0, -0.5 * math.e])


def test_what_was_taken_back_does_not_stand() -> None:
    said = [
        Said("like", 3, 1),
        Said("block_author", 1, 2),
        Said("block_author", 7, 3),  # of the same author
        Said("block_author", 2, 4),
        Said("less_topic", 5, 5),
        Said("not_interested", 5, 6),
        Said("like", 3, 7),
        Said("unblock_author", 13, 8),  # of this author, too
        Said("undo", 5, 9),
        Said("skip", 5, 10),
    ]
    found = standing(said, AUTHORS)
    assert found == [Said("block_author", 2, 4), Said("like", 3, 7), Said("skip", 5, 10)]
    assert blocked_authors(found, AUTHORS).tolist() == [2]
    assert blocked_authors(standing(said[:7], AUTHORS), AUTHORS).tolist() == [1, 2]
    assert unwanted(standing(said[:7], AUTHORS)).tolist() == [5]
    assert unwanted(found).tolist() == []
    again = [*said, Said("block_author", 1, 11)]
    assert blocked_authors(standing(again, AUTHORS), AUTHORS).tolist() == [1, 2]


def test_the_reason_is_what_moved_a_video_most() -> None:
    found = feedback_of([Said("like", 1, NOW), Said("less_author", 2, NOW)]).reasons(np.array([1, 2, 6, 12]))
    assert [each and (each.kind, each.scope) for each in found] == [
        ("like", "topic"),
        ("less_author", "author"),
        None,
        None,
    ]
    assert found[1] is not None
    assert found[1].factor == pytest.approx(math.exp(EFFECTS.less_author.author))


def test_an_effect_of_nothing_moves_nothing() -> None:
    effects = FeedbackEffects.model_validate({"like": {"topic": 0, "author": 0, "near": 0}})
    found = Feedback.of([Said("like", 1, NOW)], NOW, effects, TOPICS, AUTHORS)
    assert found is not None
    assert found.reasons(EVERYTHING) == [None] * len(EVERYTHING)
    assert not found.logarithms(EVERYTHING).any()


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_are_no_candidates_nothing_is_moved(kind: str) -> None:
    found = Feedback.of([Said(kind, 1, NOW)], NOW, EFFECTS, TOPICS, AUTHORS)
    assert found is not None
    assert found.logarithms(EVERYTHING[:0]).tolist() == []
    assert found.reasons(EVERYTHING[:0]) == []


def test_without_effects_nothing_is_moved() -> None:
    said = [Said("like", 1, NOW)]
    assert Feedback.of(said, NOW, None, TOPICS, AUTHORS) is None
    assert Feedback.of([Said("block_author", 1, NOW)], NOW, EFFECTS, TOPICS, AUTHORS) is None
    assert RecallPipeline(Recall(), Selection(), ITEMS).feedback([], NOW) is None
    assert RecallPipeline(Recall(feedback=None), Selection(), ITEMS).feedback(said, NOW) is None


def test_a_topic_of_which_less_is_wanted_brings_fewer_candidates() -> None:
    """Item i of the small catalog is on topic i % 4."""
    settings = Recall(candidates=8, topics=2)
    pipeline, queues = RecallPipeline(settings, Selection(), ITEMS), make_queues(settings)

    def topics(clicked: list[int], *said: Said) -> list[int]:
        asked = query(clicked)
        asked = type(asked)(asked.user_id, asked.clicked, asked.clicked_at, asked.exclusions, 0, pipeline.feedback(said, NOW))
        found = pipeline.candidates(asked, queues, 8, Trace())
        assert len(found) == 8  # backfill adds what a topic loses
        return sorted(found.topics.tolist())

    assert topics([1, 5, 2, 6]) == [1] * 4 + [2] * 4
    assert topics([1, 5, 2, 6], Said("less_topic", 9, NOW)) == [-1] * 4 + [2] * 4
    assert topics([1, 5], Said("less_topic", 9, NOW)) == [-1] * 8
    assert topics([1, 5, 2, 6, 3], Said("less_topic", 9, NOW)) == [-1] * 2 + [2] * 4 + [3] * 2  # the third topic moves up
    assert topics([1, 5], Said("like", 3, NOW)).count(3) > 0  # a liked topic is searched, too
    assert topics([1, 5, 2, 6], Said("like", 10, NOW)).count(2) > 4


def test_every_like_counts_as_a_click_but_moves_scores_up_to_a_bound() -> None:
    said = [Said("like", item, NOW) for item in range(3, COUNT, 7)]  # of topic 3, or with topic 3 as the first of two
    of_topic = sum((LISTS[each.item] or [-1])[0] == 3 for each in said)
    assert of_topic > 2 * EFFECTS.repeats
    found = Feedback.of(said, NOW, EFFECTS, TOPICS, AUTHORS)
    assert found is not None
    topics, before, after = found.weighted(np.array([3], np.int32), np.array([2]))
    assert topics.tolist() == [3]
    assert before == pytest.approx([2 + of_topic])
    assert after / before == pytest.approx([math.exp(EFFECTS.like.topic * EFFECTS.repeats)])


def test_what_is_not_wanted_is_not_explored() -> None:
    """Items 16 to 20 are fresh; half of the page explores. No fresh video of author 1 (items 16) may be on it."""
    pipeline, queues = RecallPipeline(Recall(), Selection(explore=0.5), ITEMS), make_queues(Recall())
    for draw_seed in range(20):
        asked = query([2], draw_seed=draw_seed)
        wish = pipeline.feedback([Said("less_author", 1, NOW)], NOW)
        asked = type(asked)(asked.user_id, asked.clicked, asked.clicked_at, asked.exclusions, draw_seed, wish)
        found = pipeline.candidates(asked, queues, 20, Trace())
        assert {1, 6, 11, 16} <= set(found.items.tolist())
        chosen = pipeline.selected(asked, queues, found, np.linspace(1, 0.5, 20, dtype=np.float32), 8, Trace())
        assert not set(chosen.page.tolist()) & {1, 6, 11, 16}
        assert chosen.scores.tolist() == np.linspace(1, 0.5, 20, dtype=np.float32).tolist()
