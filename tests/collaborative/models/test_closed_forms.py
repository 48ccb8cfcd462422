"""Each model in closed form against its formula, written as loops over users and items."""

import math

import numpy as np
import pytest
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.collaborative.models import build
from rayrec.config import Collaborative
from rayrec.data.errors import DataError

USERS, ITEMS = 14, 9


def feedback() -> Feedback:
    """Clicks in which user 3 and item 5 have none, and vectors that item 4 lacks."""
    rng = np.random.default_rng(1)
    likes = (rng.random((USERS, ITEMS)) < 0.4).astype(np.float32)
    likes[0] = likes[3] = likes[:, 0] = likes[:, 5] = 0
    vectors = rng.standard_normal((ITEMS, 6)).astype(np.float32)
    vectors[0] = vectors[4] = 0
    return Feedback(sparse.csr_array(likes), sparse.csr_array(np.zeros_like(likes)), {"image": vectors})


def fitted(name: str, **options: object) -> tuple[CollaborativeModel, np.ndarray]:
    """A fitted model, and the clicks that it has learned from."""
    found, known = build(Collaborative(model=name, options=options)), feedback()
    assert found.fit(known, Fitting(seed=3)) == []
    return found, known.likes.toarray().astype(np.float64)


def scores(model: CollaborativeModel, user: np.ndarray, likes: np.ndarray) -> np.ndarray:
    return model.scores(user, sparse.csr_array(likes.astype(np.float32)))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    union = np.count_nonzero(first + second)
    return np.count_nonzero(first * second) / union if union else 0.0


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    length = math.sqrt(np.count_nonzero(first) * np.count_nonzero(second))
    return np.count_nonzero(first * second) / length if length else 0.0


@pytest.mark.parametrize(("name", "similarity"), [("cosine", cosine), ("jaccard", jaccard)])
def test_item_cf(name: str, similarity: "type[object]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.collaborative.models.item_cf.ITEMS_AT_ONCE", 4)
    model, likes = fitted("item_cf", similarity=name, neighbours=3)
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        of = {other: similarity(likes[:, item], likes[:, other]) for other in range(ITEMS) if other != item}  # type: ignore[call-arg]
        for other in sorted(of, key=lambda other: (-of[other], other))[:3]:
            weights[item, other] = of[other]
    np.testing.assert_allclose(model.similar(np.arange(ITEMS)), weights, atol=1e-6)
    np.testing.assert_allclose(scores(model, np.arange(USERS), likes), likes @ weights, atol=1e-5)


def test_user_cf() -> None:
    model, likes = fitted("user_cf", neighbours=4)
    new = np.array([[0, 1, 0, 0, 1, 0, 0, 1, 0]], np.float64)
    for user, clicks in [*((user, likes[user]) for user in range(1, USERS)), (0, new[0])]:
        of = {other: jaccard(clicks, likes[other]) for other in range(USERS) if other != user}
        nearest = sorted(of, key=lambda other: (-of[other], other))[:4]
        expected = sum(of[other] * likes[other] for other in nearest)
        np.testing.assert_allclose(scores(model, np.array([user]), clicks[None])[0], expected, atol=1e-6)


def test_pure_svd() -> None:
    model, likes = fitted("pure_svd", factors=3)
    _, _, vectors = np.linalg.svd(likes)
    np.testing.assert_allclose(scores(model, np.arange(USERS), likes), likes @ vectors[:3].T @ vectors[:3], atol=1e-5)
    factors = model.factors()
    assert factors is not None
    np.testing.assert_allclose(likes @ factors.clicked @ factors.candidate.T, likes @ vectors[:3].T @ vectors[:3], atol=1e-5)


def test_ease_solves_its_constrained_least_squares() -> None:
    """Each item's weights are the ridge regression of its clicks on those of all other items."""
    model, likes = fitted("ease", l2=2.5)
    found = model.similar(np.arange(ITEMS))
    for item in range(ITEMS):
        others = [other for other in range(ITEMS) if other != item]
        gram = likes[:, others].T @ likes[:, others] + 2.5 * np.eye(ITEMS - 1)
        np.testing.assert_allclose(found[others, item], np.linalg.solve(gram, likes[:, others].T @ likes[:, item]), atol=1e-5)
    np.testing.assert_allclose(np.diag(found), 0)
    np.testing.assert_allclose(scores(model, np.arange(USERS), likes), likes @ found, atol=1e-5)


def test_content_counts_in_ease_as_more_users() -> None:
    known = feedback()
    model, likes = fitted("ease", l2=2.5, content={"image": 7})
    vectors = known.vectors["image"].astype(np.float64)
    some = vectors.any(axis=1)
    vectors[some] -= vectors[some].mean(axis=0)
    vectors[some] /= np.linalg.norm(vectors[some], axis=1, keepdims=True)
    together = np.concatenate([likes, np.sqrt(7) * vectors.T])
    inverse = np.linalg.inv(together.T @ together + 2.5 * np.eye(ITEMS))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(model.similar(np.arange(ITEMS)), expected, atol=1e-5)
    assert np.abs(expected[5]).max() > 0.01  # the item that nobody clicked goes with others by its content


@pytest.mark.parametrize("weigh_both", [False, True])
def test_gf_cf(weigh_both: bool) -> None:
    model, likes = fitted("gf_cf", factors=2, alpha=0.7, weigh_both=weigh_both)
    users, items = likes.sum(axis=1), likes.sum(axis=0)
    graph = np.zeros_like(likes)
    for user, item in zip(*np.nonzero(likes), strict=True):
        graph[user, item] = 1 / math.sqrt(users[user] * items[item])
    first = np.linalg.svd(graph)[2][:2]
    down, up = np.diag([1 / math.sqrt(count) if count else 0 for count in items]), np.diag(np.sqrt(items))
    linear = graph.T @ graph @ (up if weigh_both else np.eye(ITEMS))
    expected = likes @ (linear + 0.7 * down @ first.T @ first @ up)
    np.testing.assert_allclose(scores(model, np.arange(USERS), likes), expected, atol=1e-5)


def test_mixed_adds_up_z_scores() -> None:
    parts = [{"model": "ease", "options": {"l2": 2.0}, "weight": 0.3}, {"model": "item_cf", "weight": 2.0}]
    model, likes = fitted("mixed", parts=parts)
    (ease, _), (item_cf, _) = fitted("ease", l2=2.0), fitted("item_cf")
    found = scores(model, np.arange(USERS), likes)
    for user in range(USERS):
        expected = np.zeros(ITEMS)
        for one, weight in ((ease, 0.3), (item_cf, 2.0)):
            of = scores(one, np.array([user]), likes[user][None])[0]
            expected += weight * (of - of[1:].mean()) / (of[1:].std() or 1)
        np.testing.assert_allclose(found[user], expected, atol=1e-4)


def test_too_many_items_for_a_dense_matrix_are_refused() -> None:
    wide = sparse.csr_array((2, 30_001), dtype=np.float32)
    with pytest.raises(DataError, match="ease holds a number for each pair of items, 3 GB for 30,001 items"):
        build(Collaborative(model="ease")).fit(Feedback(wide, wide), Fitting())
