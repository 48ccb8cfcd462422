"""Which frames are taken. How squares, covers and thumbnails look is tested with the decoder."""

import numpy as np
import pytest

from rayrec.features.media.frames import clip_positions, even_positions


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(100, 4, [12, 37, 62, 87]), (3, 3, [0, 1, 2]), (1, 4, [0, 0, 0, 0]), (2, 4, [0, 0, 1, 1])]
)
def test_even_positions(total: int, count: int, expected: list[int]) -> None:
    assert even_positions(np.arange(total + 1), count).tolist() == expected


def test_clips_sit_in_the_middles_of_equal_parts() -> None:
    assert clip_positions(np.arange(10 + 1), 4, 1).tolist() == [[3, 4, 5, 6]]
    assert clip_positions(np.arange(100 + 1), 16, 3)[:, 0].tolist() == [8, 42, 75]
    assert clip_positions(np.arange(20 + 1), 16, 3)[:, 0].tolist() == [0, 2, 4]  # they overlap where they must
    assert clip_positions(np.arange(17 + 1), 16, 4)[:, 0].tolist() == [0, 1]  # there are no more than two


def test_a_video_shorter_than_a_clip_is_slowed_down() -> None:
    assert clip_positions(np.arange(4 + 1), 8, 3).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert clip_positions(np.arange(3 + 1), 5, 1).tolist() == [[0, 0, 1, 2, 2]]
    assert clip_positions(np.arange(1 + 1), 3, 2).tolist() == [[0, 0, 0]]
