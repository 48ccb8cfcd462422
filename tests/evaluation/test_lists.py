"""The protocol against loops over users and items, and against figures that were measured elsewhere."""

import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import ndcg_score

from rayrec.evaluation.lists import ListScorer, ScoresError, measure, one_each, sampled
from tests.fixtures.tiktok import tiktok

USERS, ITEMS, K = 30, 25, [3, 10]


def matrices(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, clicks, and held-out clicks, of users 1.. and items 1.. ."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (USERS, ITEMS)).astype(np.float32)
    kind = rng.choice(3, (USERS, ITEMS), p=[0.7, 0.2, 0.1])
    kind[0] = kind[:, 0] = 0
    kind[5] = np.where(kind[5] == 2, 0, kind[5])  # a user without a held-out item
    kind[6, 1:] = [1] * (ITEMS - 3) + [2, 0]  # a user with two items left
    return scores, (kind == 1).astype(np.float32), (kind == 2).astype(np.float32)


def csr(matrix: np.ndarray) -> sparse.csr_array:
    return sparse.csr_array(matrix)


def scorer_of(scores: np.ndarray) -> ListScorer:
    return lambda user_B, likes_BI: scores[user_B]


def by_loop(scores: np.ndarray, likes: np.ndarray, held_out: np.ndarray, k: int) -> dict[str, float]:
    each: dict[str, list[float]] = {"recall": [], "ndcg": [], "mrr": [], "hit": []}
    lists = []
    for user in range(USERS):
        relevant = set(np.flatnonzero(held_out[user]).tolist())
        if not relevant:
            continue
        candidates = [item for item in range(1, ITEMS) if not likes[user, item]]
        top = sorted(candidates, key=lambda item: (-scores[user, item], item))[:k]
        gains = [1 / math.log2(rank + 2) if item in relevant else 0 for rank, item in enumerate(top)]
        ranks = [rank + 1 for rank, item in enumerate(top) if item in relevant]
        each["recall"].append(len(ranks) / len(relevant))
        each["ndcg"].append(sum(gains) / sum(1 / math.log2(rank + 2) for rank in range(min(k, len(relevant)))))
        each["mrr"].append(1 / ranks[0] if ranks else 0)
        each["hit"].append(bool(ranks))
        lists.append(top)
    listed = [item for top in lists for item in top]
    surprise = [-math.log2(max(likes[:, item].sum(), 1) / (USERS - 1)) for item in listed]
    means = {name: float(np.mean(values)) for name, values in each.items()}
    return means | {"coverage": len(set(listed)) / (ITEMS - 1), "novelty": float(np.mean(surprise))}


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_that_of_a_loop(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.data.top.NUMBERS_AT_ONCE", 7 * ITEMS)
    scores, likes, held_out = matrices(seed)
    found = measure(scorer_of(scores), csr(likes), csr(held_out), K).metrics(likes.sum(axis=0), USERS - 1)
    expected = {f"{name}@{k}": value for k in K for name, value in by_loop(scores, likes, held_out, k).items()}
    assert found == pytest.approx(expected)


def test_shares_of_the_users_add_up() -> None:
    scores, likes, held_out = matrices(1)
    parts = [np.where(np.arange(USERS)[:, None] % 3 == part, held_out, 0) for part in range(3)]
    one, two, three = (measure(scorer_of(scores), csr(likes), csr(part), K) for part in parts)
    clicks = likes.sum(axis=0)
    expected = measure(scorer_of(scores), csr(likes), csr(held_out), K).metrics(clicks, USERS - 1)
    assert (one + two + three).metrics(clicks, USERS - 1) == pytest.approx(expected)


def test_ndcg_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(USERS * ITEMS).reshape(USERS, ITEMS).astype(np.float32)  # no ties, which it averages
    scores[:, 0] = -1
    _, _, held_out = matrices(0)
    nothing = csr(np.zeros((USERS, ITEMS), np.float32))
    found = measure(scorer_of(scores), nothing, csr(held_out), [10]).metrics(np.ones(ITEMS), USERS)
    some = held_out.any(axis=1)
    assert found["ndcg@10"] == pytest.approx(ndcg_score(held_out[some], scores[some], k=10))


def test_one_held_out_item_is_ranked_among_sampled_ones() -> None:
    scores, likes, held_out = matrices(2)
    positive = one_each(csr(held_out), seed=3)
    assert ((positive.toarray() > 0) <= (held_out > 0)).all()
    assert (np.diff(positive.indptr) == held_out.any(axis=1)).all()
    allowed = sampled(positive, csr(likes + held_out), 4, seed=3)
    found = measure(scorer_of(scores), csr(likes), positive, [2], allowed).metrics(likes.sum(axis=0), USERS - 1)
    hits, gains = [], []
    for user in np.flatnonzero(held_out.any(axis=1)):
        (candidates,) = (np.flatnonzero(row) for row in allowed(np.array([user])))
        (item,) = np.flatnonzero(positive.toarray()[user])
        negatives = candidates[candidates != item]
        assert len(negatives) == min(4, ITEMS - 1 - (likes + held_out)[user].sum())
        assert not (likes + held_out)[user, negatives].any()
        rank = 1 + sum((scores[user, other], -other) > (scores[user, item], -item) for other in negatives)
        hits.append(rank <= 2)
        gains.append(1 / math.log2(rank + 1) if rank <= 2 else 0)
    assert found["hit@2"] == found["recall@2"] == pytest.approx(np.mean(hits))
    assert found["ndcg@2"] == pytest.approx(np.mean(gains))


def test_what_is_sampled_does_not_depend_on_the_share() -> None:
    _, likes, held_out = matrices(2)
    allowed = sampled(one_each(csr(held_out), 0), csr(likes), 5, seed=0)
    together = allowed(np.arange(1, USERS))
    assert (np.concatenate([allowed(np.array([user])) for user in range(1, USERS)]) == together).all()


def test_scores_that_are_not_numbers_are_refused() -> None:
    scores, likes, held_out = matrices(0)
    scores[3, 4] = np.nan
    with pytest.raises(ScoresError, match="some scores of the model are not numbers"):
        measure(scorer_of(scores), csr(likes), csr(held_out), K)


def test_popularity_on_tiktok_is_as_it_was_measured_elsewhere() -> None:
    feedback, test = tiktok()
    clicks = feedback.likes.sum(axis=0)
    popular = measure(lambda user_B, likes_BI: np.tile(clicks, (len(user_B), 1)), feedback.likes, test, [20])
    found = popular.metrics(clicks, feedback.users - 1)
    assert (found["recall@20"], found["ndcg@20"]) == (pytest.approx(0.0597, abs=5e-4), pytest.approx(0.0255, abs=5e-4))
