"""The tables that the service reads: a dot product of two rows and the mean make the prediction."""

import numpy as np
import pytest

from rayrec.collaborative.model import Fitting
from rayrec.music.exports import record_of, track_table, user_table
from rayrec.music.pmf import RMSE, fit
from tests.music.rated import settings, world


def test_the_mean_and_a_dot_product_are_the_predicted_rating() -> None:
    data = world(users=10, tracks=7)
    vectors, epochs = fit(data, settings(tracks="none"), Fitting(1))
    users, tracks, record = user_table(data, vectors), track_table(data, vectors), record_of(vectors, epochs)
    assert users["user_id"].to_pylist() == ["", *(f"u{user}" for user in range(1, 11))]
    assert tracks["track_id"].to_pylist() == [f"t{track}" for track in range(1, 8)]
    user_UV, track_TV = (np.array(table["vector"].to_pylist()) for table in (users, tracks))
    assert user_UV.shape[1] == track_TV.shape[1] == record["size"] == 3 + 2
    found = np.clip(record["mean"] + user_UV @ track_TV.T, record["low"], record["high"])
    for user in range(11):
        expected = vectors.predict(np.full(7, user), np.arange(1, 8))
        np.testing.assert_allclose(found[user], expected, rtol=1e-5)
    assert record["metrics"][RMSE] == pytest.approx(min(epoch.metrics[RMSE] for epoch in epochs))
