"""The heads of the queues of a user's top topics (Pu et al., "Multimodal Topic Learning for Video Recommendation")."""

import numpy as np

from rayrec.config import Recall
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.feedback import Feedback
from rayrec.recall.queues import NO_ITEMS, ItemTopics, TopicQueues
from rayrec.recall.source import Candidates, Query, Source


def top_topics(clicked: np.ndarray, item_topics: ItemTopics, settings: Recall) -> tuple[np.ndarray, np.ndarray]:
    """The topics that occur most often in the latest clicks, and how often each does.

    At most `settings.topics` (N2) topics of the last `settings.clicks` (N1) clicks, the most frequent first, ties by number.
    """
    topics, counts = np.unique(item_topics.of_items(clicked[-settings.clicks :]), return_counts=True)
    best = np.argsort(-counts, kind="stable")[: settings.topics]
    return topics[best], counts[best]


class Topics(Source):
    """The top topics share the candidates in proportion to their clicks, and take turns in it. A user without clicks gets none.

    A user who has seen the best of a topic gets the next best. What the user said of videos changes the weights of their topics;
    what a topic loses by it goes to backfill, unless other topics gain it.
    """

    label = "topic"

    def candidates(self, query: Query, queues: TopicQueues, count: int) -> Candidates:
        topics, weights = top_topics(query.clicked, queues.item_topics, self.settings)
        if query.feedback is not None:
            topics, weights, count = _moved(query, queues.item_topics, self.settings, query.feedback, count)
        quotas = np.floor(count * weights / max(weights.sum(), 1e-300)).astype(int)
        quotas[:1] += count - quotas.sum()  # what rounding leaves goes to the first topic
        heads = [
            _head(queues, topic, quota, query.exclusions, query.draw_seed)
            for topic, quota in zip(topics.tolist(), quotas.tolist(), strict=True)
        ]
        topic_of = np.repeat(topics.astype(np.int32), [len(head) for head in heads])
        # Whose turn it is by Sainte-Laguë: the n-th item of a topic comes at (n - 1/2) / clicks.
        turns = [(np.arange(len(head)) + 0.5) / weight for head, weight in zip(heads, weights, strict=True)]
        order = np.argsort(np.concatenate([[], *turns]), kind="stable")
        return Candidates.of(np.concatenate([NO_ITEMS, *heads])[order], topic_of[order])


def _moved(
    query: Query, item_topics: ItemTopics, settings: Recall, feedback: Feedback, count: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The top topics and their weights after what the user said of videos, and how many of `count` candidates they bring."""
    clicked = np.unique(item_topics.of_items(query.clicked[-settings.clicks :]), return_counts=True)
    topics, before, after = feedback.weighted(*clicked)
    usual = np.sort(before)[-settings.topics :].sum()
    best = np.argsort(-after, kind="stable")[: settings.topics]
    weights = after[best]
    return topics[best], weights, min(count, round(count * weights.sum() / max(usual, 1e-300)))


def _head(queues: TopicQueues, topic: int, quota: int, exclusions: Exclusions, draw_seed: int) -> np.ndarray:
    """The first `quota` items of a queue that are not excluded."""
    if not quota:
        return NO_ITEMS
    count, allowed = 2 * quota, np.empty(0, dtype=bool)
    while True:
        items = queues.queue(topic, count, draw_seed)
        allowed = np.append(allowed, exclusions.allow(items[len(allowed) :]))
        if len(items) < count or np.count_nonzero(allowed) >= quota:
            return items[allowed][:quota]
        count *= 4
