"""A saved model scores as the fitted one did, and what is no saved model is refused with a sentence."""

from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
from scipy import sparse

from rayrec.collaborative import saving
from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import Fitting
from rayrec.collaborative.models import build
from rayrec.config import Collaborative

FS = pafs.LocalFileSystem()
LIKES = sparse.csr_array(np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1]], np.float32))


def test_a_saved_model_scores_as_before(tmp_path: Path) -> None:
    settings = Collaborative(model="pop")
    model = build(settings)
    model.fit(Feedback(LIKES, LIKES), Fitting())
    saving.save(FS, str(tmp_path / "model"), settings, model)
    loaded_settings, loaded = saving.load(FS, str(tmp_path / "model"))
    assert loaded_settings == settings
    assert loaded.scores(np.array([0, 2]), LIKES[[0, 2]]).tolist() == [[0, 2, 1], [0, 2, 1]]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(saving.SavedModelError, match="there is no complete model here; run `rayrec collaborative CONFIG --force`"):
        saving.load(FS, str(tmp_path))
