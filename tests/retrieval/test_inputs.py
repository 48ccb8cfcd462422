"""What the projections read: vectors with gaps, parts that lack a modality, and hashed words of any script."""

import numpy as np
import pyarrow as pa

from rayrec.retrieval.inputs import HASHED, Inputs, hashed, inputs_of
from rayrec.tables import VECTOR


def test_a_video_without_a_modality_has_zeros_and_is_masked() -> None:
    features = pa.table({"cover": pa.array([[1.0, 2.0], None], VECTOR), "audio": pa.array([None, None], VECTOR)})
    found = inputs_of(features, ["text", "cover", "motion", "audio"], ["a song", " "])
    assert found.values["cover"].tolist() == [[1, 2], [0, 0]]
    assert {name: mask.tolist() for name, mask in found.present.items()} == {"cover": [True, False], "text": [True, False]}
    assert inputs_of(features, ["text", "cover"], None).values.keys() == {"cover"}


def test_parts_are_joined_in_order_whatever_each_of_them_lacks() -> None:
    first = Inputs.of_rows(2, {"a": (np.array([True, False]), np.array([[1.0, 2.0]]))})
    second = Inputs.of_rows(1, {"b": (np.array([True]), np.array([[3.0]]))})
    joined = Inputs.joined([first, second])
    assert joined.count == 3
    assert joined.values["a"].tolist() == [[1, 2], [0, 0], [0, 0]]
    assert joined.present["b"].tolist() == [False, False, True]
    taken = joined.take(np.array([2, 0]))
    assert (taken.count, taken.values["b"].tolist(), taken.present["a"].tolist()) == (2, [[3], [0]], [False, True])


def test_hashed_words_tell_likeness_in_any_script() -> None:
    texts = ["Guitar song", "guitars", "吉他 弹唱", "吉他", "", "rain"]
    vectors = hashed(texts)
    assert vectors.shape == (6, HASHED)
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(likeness), [1, 1, 1, 1, 0, 1], atol=1e-6)
    assert likeness[0, 1] > 0.3 > likeness[0, 5]
    assert likeness[2, 3] > 0.3 > likeness[2, 0]
