"""The 34 short-term features against the library that defines them."""

import numpy as np
import pytest

from rayrec.features.short_term import SIZE, WINDOWS_AT_ONCE, short_term_features
from tests.features.clips import RATE, tone

RNG = np.random.default_rng(3)
SOUNDS = {
    "noise": RNG.normal(0, 0.1, 2 * RATE),
    "tones": (tone(500, 1.0) + tone(3000, 1.0)).astype(float),
    "a tone after silence": np.r_[np.zeros(RATE), tone(440, 1.0)],
    "silence": np.zeros(RATE),
    "one click": np.r_[np.zeros(3000), 1.0, np.zeros(3000)],
    "one window": RNG.uniform(-1, 1, 1102),
    "more windows than are computed at once": RNG.normal(0, 0.1, 551 * (2 * WINDOWS_AT_ONCE + 3)),
}


def by_the_library(samples: np.ndarray, rate: int, window: int, step: int) -> np.ndarray:
    from pyAudioAnalysis import ShortTermFeatures

    return ShortTermFeatures.feature_extraction(samples * 32768, rate, window, step, deltas=False)[0].T


@pytest.mark.filterwarnings("ignore:Please import `dct`:DeprecationWarning")
@pytest.mark.parametrize("sound", SOUNDS)
def test_equal_to_the_library(sound: str) -> None:
    ours = short_term_features(SOUNDS[sound], RATE, 1102, 551)
    assert ours.shape[1] == SIZE
    np.testing.assert_allclose(ours, by_the_library(SOUNDS[sound], RATE, 1102, 551), rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Please import `dct`:DeprecationWarning")
@pytest.mark.parametrize(
    ("rate", "window", "step"), [(8000, 400, 200), (16_000, 640, 160), (44_100, 4410, 4410), (22_050, 331, 97)]
)
def test_equal_to_the_library_for_other_windows(rate: int, window: int, step: int) -> None:
    sound = RNG.normal(0, 0.1, rate)
    np.testing.assert_allclose(
        short_term_features(sound, rate, window, step), by_the_library(sound, rate, window, step), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(("rate", "window"), [(4000, 400), (8000, 160), (22_050, 1), (100, 5)])
def test_windows_without_features(rate: int, window: int) -> None:
    with pytest.raises(ValueError, match=r"mel filter|too few"):
        short_term_features(np.ones(rate), rate, window, window)
