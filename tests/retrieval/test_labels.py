"""Which videos are alike."""

import numpy as np
import pyarrow as pa

from rayrec.retrieval.labels import Labels
from rayrec.tables import TEXT


def test_videos_of_a_class_are_alike_and_others_by_the_share_of_common_tags() -> None:
    catalog = pa.table(
        {
            "primary_class": pa.array(["a", "a", None, None], TEXT),
            "tags": pa.array([["x", "y"], [], ["x", "z", "z"], None], pa.list_(TEXT)),
        }
    )
    labels = Labels.of(catalog, 10)
    assert labels.names == ["x", "y", "z"]
    found = labels.likeness(np.arange(4), np.array([0, 1, 2, 3]))
    expected = [[1, 1, 1 / 3, 0], [1, 1, 0, 0], [1 / 3, 0, 1, 0], [0, 0, 0, 0]]  # two without a class are in no class together
    np.testing.assert_allclose(found, expected)
    assert Labels.of(catalog, 1).names == ["x"]
