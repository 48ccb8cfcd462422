"""Topic ids across retrainings."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from rayrec.topics.matching import carried_centres, match
from rayrec.topics.words import membership


def test_topics_keep_their_numbers_in_a_space_that_has_turned() -> None:
    rng = np.random.default_rng(0)
    centres = normalize(rng.normal(size=(6, 8)))
    topic = rng.integers(0, 6, 300)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    new_embeddings = normalize(centres[topic] + 0.1 * rng.normal(size=(300, 8))) @ turn
    shuffle = rng.permutation(6)
    order, kept = match((centres @ turn)[shuffle], carried_centres([membership(topic[:, None], 6) @ new_embeddings]))
    assert shuffle[order].tolist() == [0, 1, 2, 3, 4, 5]
    assert kept == 6


@pytest.mark.parametrize(("new", "old"), [(6, 4), (4, 6)])
def test_more_or_fewer_topics_still_get_each_a_number(new: int, old: int) -> None:
    axes = np.eye(6)
    order, kept = match(axes[:new], axes[:old])
    assert sorted(order) == list(range(new))
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert kept == 4


def test_an_unlike_topic_does_not_count_as_kept() -> None:
    axes = np.eye(4)
    assert match(axes[:2], axes[2:])[1] == 0
    assert not carried_centres([membership([np.array([1])], 3) @ axes[:1]])[0].any()  # a topic whose videos are gone
