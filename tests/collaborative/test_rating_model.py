"""What all rating models have in common."""

from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from rayrec.collaborative import saving
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.collaborative.rating_model import RatingModel
from rayrec.config import Collaborative
from rayrec.data.errors import DataError
from tests.collaborative.rated import ITEMS, rated

OPTIONS = {
    "rating_bias": {},
    "funk_svd": {"size": 3, "epochs": 2},
    "bpmf": {"size": 3, "components": 2, "epochs": 6, "burn_in": 2, "samples": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_saved_model_predicts_as_before(tmp_path: Path, name: str) -> None:
    fs, data = pafs.LocalFileSystem(), rated()
    settings = Collaborative(model=name, options=OPTIONS[name])
    model = build(settings)
    assert isinstance(model, RatingModel)
    model.fit(Feedback.of_ratings(data), Fitting())
    saving.save(fs, str(tmp_path / "model"), settings, model)
    loaded = saving.load(fs, str(tmp_path / "model"))[1]
    assert isinstance(loaded, RatingModel)
    user, item = data.held_out.user, data.held_out.item
    predicted = model.predict(user, item)
    assert predicted.dtype == np.float32
    assert predicted.min() >= 1
    assert predicted.max() <= 5
    assert (loaded.predict(user, item) == predicted).all()
    scores = model.scores(user, Feedback.of_ratings(data).likes[user])
    assert scores.dtype == np.float32
    assert np.allclose(np.clip(scores[np.arange(len(user)), item], 1, 5), predicted, atol=1e-4)
    assert model.similar(np.array([3, 0])).shape == (2, ITEMS)
    assert np.isfinite(model.predict(np.array([0, 0, 5]), np.array([0, 5, 0]))).all()


def test_a_log_without_ratings_is_refused() -> None:
    likes = Feedback.of_ratings(rated()).likes
    with pytest.raises(DataError, match="there are no ratings in the training split"):
        build(Collaborative(model="funk_svd")).fit(Feedback(likes, likes), Fitting())
