"""The neighbours of items: their sums against a loop, other orders of the items, and neighbours by content."""

import numpy as np
import pytest

from rayrec.data import top
from rayrec.recall.neighbours import Neighbours


def made_up(items: int = 30, count: int = 4, seed: int = 0) -> Neighbours:
    """Item 0 has no neighbours, and some others have fewer than `count`."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.choice(np.arange(1, items), count, replace=False) for _ in range(items)]).astype(np.int32)
    weights = -np.sort(-rng.random((items, count)), axis=1).astype(np.float32)
    rows[0], weights[0] = 0, 0
    rows[5:9, 2:], weights[5:9, 2:] = 0, 0
    return Neighbours(rows, weights)


def pairs(found: Neighbours, item: int) -> dict[int, float]:
    return {other: weight for other, weight in zip(found.items[item].tolist(), found.weights[item].tolist(), strict=True) if other}


def test_weights_add_up_over_the_clicks() -> None:
    all_of_them, clicked = made_up(), np.array([3, 7, 7, 12, 40])  # 40 was added behind the others
    expected: dict[int, float] = {}
    for item in clicked[:-1].tolist():
        for other, weight in pairs(all_of_them, item).items():
            expected[other] = expected.get(other, 0) + weight
    items, weights = all_of_them.of(clicked)
    assert items.dtype == np.int32
    assert dict(zip(items.tolist(), weights.tolist(), strict=True)) == pytest.approx(expected)
    assert len(all_of_them.of(clicked[-1:])[0]) == len(all_of_them.of(clicked[:0])[0]) == 0


def test_items_in_another_order_keep_their_neighbours() -> None:
    before, old = made_up(), np.array([0, 12, 0, 7, 3, 9, 1])  # item 2 is new, and most of the old ones are gone
    after, place = before.aligned(old), {item: new for new, item in enumerate(old.tolist()) if item}
    for new, item in enumerate(old.tolist()):
        kept = {place[other]: weight for other, weight in pairs(before, item).items() if other in place}
        assert pairs(after, new) == kept
        assert set(after.weights[new][after.items[new] == 0]) <= {0}


@pytest.mark.parametrize("block", [2, 256])
def test_items_without_clicks_have_those_of_like_content(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "NUMBERS_AT_ONCE", block * 29)
    before, rng = made_up(), np.random.default_rng(1)
    content = rng.normal(size=(29, 5)).astype(np.float32)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    content[19] = 0
    unknown = np.isin(np.arange(30), [4, 11, 20, 28])  # of item 20, nothing is known at all
    after = before.completed(unknown, content)
    np.testing.assert_array_equal(after.items[~unknown], before.items[~unknown])
    np.testing.assert_array_equal(after.weights[~unknown], before.weights[~unknown])
    typical = np.median([before.weights[item, 0] for item in range(1, 30) if not unknown[item]])
    for item in (4, 11, 28):
        cosine = {other: float(content[item - 1] @ content[other - 1]) for other in range(1, 30) if other != item}
        best = sorted(cosine, key=lambda other: -cosine[other])[:4]
        assert after.items[item].tolist() == best
        assert after.weights[item] == pytest.approx([cosine[other] / cosine[best[0]] * typical for other in best], rel=1e-5)
    assert pairs(after, 20) == {}
