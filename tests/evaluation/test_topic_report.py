"""The parts of the page of topics."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from rayrec.evaluation.topic_report import contact_sheet, planar_map


def test_the_map_keeps_groups_apart_and_places_what_is_no_landmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.evaluation.topic_report.LANDMARKS", 40)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 120)
    places = planar_map(normalize(np.eye(8)[kinds] + 0.05 * rng.normal(size=(120, 8))).astype(np.float32), 0)
    middles = [places[kinds == kind].mean(axis=0) for kind in (0, 1)]
    nearest = np.argmin([np.linalg.norm(places - middle, axis=1) for middle in middles], axis=0)
    assert (nearest == kinds).all()


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_map_of_few_videos(count: int) -> None:
    assert planar_map(np.eye(8, dtype=np.float32)[:count], 0).shape == (count, 2)


def test_no_covers_give_no_contact_sheet() -> None:
    assert contact_sheet([]) is None
