"""Reduction against scikit-learn."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from rayrec.features.reduction import Moments, Reduction, matrix, merged, moments_of, pack, reduced, unpack
from rayrec.tables import TableError
from tests.fixtures.vectors import correlated


def test_moments_of_uneven_blocks_are_those_of_the_whole() -> None:
    vectors = correlated(1000, 12)
    whole = Moments.of(vectors)
    parts = [Moments.of(part) for part in np.split(vectors, [1, 2, 40, 700])]
    for pieces in (parts, parts[::-1]):
        total = pieces[0]
        for piece in pieces[1:]:
            total += piece
        assert total.count == 1000
        np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(total.comoment, whole.comoment, rtol=1e-9, atol=1e-9 * np.abs(whole.comoment).max())
        assert np.array_equal(total.low, vectors.min(axis=0))
        assert np.array_equal(total.high, vectors.max(axis=0))
    np.testing.assert_allclose(whole.comoment / 1000, np.cov(vectors.T.astype(np.float64), ddof=0), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("normalise", ["zscore", "minmax"])
@pytest.mark.parametrize("count", [500, 9])  # more and fewer videos than dimensions
def test_it_equals_scikit_learn(normalise: str, count: int) -> None:
    vectors, later = correlated(count, 20), correlated(30, 20, seed=1)
    size = 6
    scaler = StandardScaler() if normalise == "zscore" else MinMaxScaler()
    pipeline = make_pipeline(scaler, PCA(size, svd_solver="full")).fit(vectors.astype(np.float64))
    reduction = Reduction.fit(Moments.of(vectors[: count // 3]) + Moments.of(vectors[count // 3 :]), normalise, size)
    later[:, 3] = 5.1
    for data in (vectors, later):
        theirs, ours = pipeline.transform(data.astype(np.float64)), reduction(data)
        assert ours.dtype == np.float32
        signs = np.sign((theirs * ours).sum(axis=0))
        np.testing.assert_allclose(ours * signs, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(reduction.explained, pipeline[1].explained_variance_ratio_, rtol=1e-5)
    alone = Reduction.fit(Moments.of(vectors), normalise, None)  # without PCA
    np.testing.assert_allclose(alone(later), scaler.transform(later.astype(np.float64)), rtol=1e-5, atol=1e-5)


def test_sizes_follow_the_rank_and_signs_do_not_depend_on_the_blocks() -> None:
    rng = np.random.default_rng(2)
    flat = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 15))).astype(np.float64)
    reduction = Reduction.fit(Moments.of(flat), "zscore", 10)
    assert reduction.size == 3
    assert reduction.explained.sum() == pytest.approx(1)
    np.testing.assert_allclose(reduction.components @ reduction.components.T, np.eye(3), atol=1e-10)
    assert Reduction.fit(Moments.of(flat[:3]), "zscore", 10).size == 2
    assert Reduction.fit(Moments.of(flat[:1]), "zscore", 10).size == 0
    in_blocks = Reduction.fit(Moments.of(flat[:7]) + Moments.of(flat[7:]), "zscore", 10)
    np.testing.assert_allclose(in_blocks(flat), reduction(flat), atol=1e-5)


def test_a_constant_dimension_gives_zero_whatever_comes_later() -> None:
    vectors = correlated(50, 6)
    reduction = Reduction.fit(Moments.of(vectors[:20]) + Moments.of(vectors[20:]), "zscore", None)
    vectors[:, 3] = 77
    assert not reduction(vectors)[:, 3].any()
    assert np.isfinite(reduction(vectors)).all()


def test_columns_with_nulls_and_bytes_and_back() -> None:
    column = pa.chunked_array([[[1, 2], None], [[3, 6], None, [5, 1]]], pa.list_(pa.float32()))
    assert matrix(column, "image").tolist() == [[1, 2], [3, 6], [5, 1]]
    table = pa.table({"image": column, "audio": pa.nulls(5, pa.list_(pa.float32()))})
    moments = moments_of(table, ["image", "audio"])
    assert list(moments) == ["image"]
    again = unpack(Moments, pack(merged(moments, {})))["image"]
    assert again.count == 3
    assert np.array_equal(again.comoment, moments["image"].comoment)
    for size in (None, 1):
        fit = Reduction.fit(again, "minmax", size)
        fit = unpack(Reduction, pack({"image": fit}))["image"]
        values = reduced(column, fit, "image")
        assert values.is_null().to_pylist() == [False, True, False, True, False]
        assert np.array_equal(np.array(values.drop_null().to_pylist(), np.float32), fit(matrix(column, "image")))
        nothing = reduced(pa.chunked_array([pa.nulls(2, pa.list_(pa.float32()))]), fit, "image")
        assert (len(nothing), nothing.null_count) == (2, 2)
    with pytest.raises(TableError, match="'image' hold 1 and 2 numbers"):
        matrix(pa.chunked_array([[[1.0], [1.0, 2.0]]]), "image")
    with pytest.raises(TableError, match="some vectors hold 2 numbers, others 3"):
        merged(moments, {"image": Moments.of(np.ones((1, 3)))})
