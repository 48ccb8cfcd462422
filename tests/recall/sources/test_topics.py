"""The heads of the queues of a user's topics."""

import numpy as np
import pytest

from rayrec.config import Recall
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.queues import NO_ITEMS, TopicQueues
from rayrec.recall.source import Candidates
from rayrec.recall.sources.topics import Topics, top_topics
from rayrec.registry import NoOptions
from tests.recall.small_catalog import ITEMS, NOTHING, TOPICS, make_queues, query


@pytest.fixture
def queues() -> TopicQueues:
    return make_queues(Recall())


def candidates(queues: TopicQueues, clicked: list[int], count: int, exclusions: Exclusions = NOTHING) -> Candidates:
    return Topics(Recall(topics=2), NoOptions(), ITEMS).candidates(query(clicked, exclusions), queues, count)


def test_top_topics_are_those_of_the_latest_clicks() -> None:
    history = np.array([3, 3, 3, 1, 5, 9, 2, 6, 4])
    topics, weights = top_topics(history, TOPICS, Recall(clicks=6, topics=2))
    assert (topics.tolist(), weights.tolist()) == ([1, 2], [3, 2])
    assert top_topics(NO_ITEMS, TOPICS, Recall())[0].tolist() == []


def test_topics_share_the_candidates_by_weight(queues: TopicQueues) -> None:
    found = candidates(queues, [1, 5, 9, 2], 4)  # topic 1 three times, topic 2 once
    assert found.topics.tolist() == [1, 1, 2, 1]
    first, second = queues.queue(1), queues.queue(2)
    assert found.items.tolist() == [first[0], first[1], second[0], first[2]]
    assert len(candidates(queues, [], 4)) == 0


def test_topics_take_turns_in_proportion_to_their_clicks(queues: TopicQueues) -> None:
    """At any place of the list, a topic has had its share of the items before it, give or take one."""
    found = candidates(queues, [1, 5, 2, 6, 10], 5)  # topic 1 twice, topic 2 three times
    for place in range(1, 6):
        assert abs(np.count_nonzero(found.topics[:place] == 2) - 0.6 * place) < 1


def test_what_rounding_leaves_goes_to_the_first_topic() -> None:
    """Three topics of equal weight share 4 candidates: 1 each, and 1 is left. Each topic has 5 items."""
    queues = make_queues(Recall(topics=3))
    found = Topics(Recall(topics=3), NoOptions(), ITEMS).candidates(query([1, 2, 3]), queues, 4)
    assert found.topics.tolist() == [1, 2, 3, 1]
    found = Topics(Recall(topics=3), NoOptions(), ITEMS).candidates(query([1, 2, 3]), queues, 10)
    assert found.topics.tolist() == [1, 2, 3] * 3 + [1]


def test_who_has_seen_the_best_of_a_topic_gets_the_next_best(queues: TopicQueues) -> None:
    exclusions = Exclusions.of(np.array([1, 5, 2]))
    assert candidates(queues, [1, 5, 9, 2], 4, exclusions).items.tolist() == [9, 13, 6, queues.queue(1)[4]]
    assert len(candidates(queues, [1, 5, 9, 2], 4, Exclusions.of(np.arange(21)))) == 0
