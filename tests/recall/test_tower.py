"""The content tower against scikit-learn's ridge regression, and its penalty against leaving out one video after the other."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from rayrec.recall import tower as module
from rayrec.recall.tower import PENALTIES, ContentTower


def made_up(videos: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    content = rng.normal(1, 1, size=(videos, 6)).astype(np.float32)
    target = content @ rng.normal(size=(6, 3)) + 4 + noise * rng.normal(size=(videos, 3))
    return content, target.astype(np.float32)


@pytest.mark.parametrize("noise", [0.1, 1.0, 30.0])
def test_the_penalty_is_the_one_that_predicts_left_out_videos_best(noise: float) -> None:
    content, target = made_up(25, noise)
    scale = np.square(content - content.mean(axis=0)).sum(axis=1).mean()

    def left_out(penalty: float) -> float:
        rows, error = np.arange(25), 0.0
        for row in rows:
            ridge = Ridge(alpha=penalty).fit(content[rows != row], target[rows != row])
            error += float(np.square(ridge.predict(content[row : row + 1]) - target[row]).sum())
        return error

    best = min(PENALTIES * scale, key=left_out)
    expected = Ridge(alpha=best).fit(content, target).predict(content)
    np.testing.assert_allclose(ContentTower.fit(content, target, 0)(content), expected, rtol=1e-3, atol=1e-3)


def test_a_video_of_which_nothing_is_known_gets_zeros() -> None:
    content, target = made_up(40, 0.1)
    predicted = ContentTower.fit(content, target, 0)(np.vstack([np.zeros((1, 6), np.float32), content[:1]]))
    assert not predicted[0].any()
    np.testing.assert_allclose(predicted[1], target[0], atol=0.5)


def test_many_videos_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    content, target = made_up(400, 0.1)
    whole = ContentTower.fit(content, target, 0)
    monkeypatch.setattr(module, "MAX_VIDEOS", 100)
    sampled = ContentTower.fit(content, target, 0)
    assert not np.array_equal(whole.weights, sampled.weights)
    np.testing.assert_allclose(whole.weights, sampled.weights, atol=0.2)
    np.testing.assert_array_equal(sampled.weights, ContentTower.fit(content, target, 0).weights)
