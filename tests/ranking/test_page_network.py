"""With a network for the page, the other one is what it would be alone, and both are saved and served together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Config, ConfigError, Negatives
from rayrec.config import with_values as changed
from rayrec.data.batches import Batch
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.page_network import WithPageNetwork
from rayrec.ranking.scorer import Scorer
from tests.ranking.impressions import requests
from tests.ranking.test_fitting import RANKER, with_values
from tests.ranking.test_fitting import data as data

BOTH = RANKER.model_copy(update={"page_network": True, "popularity": [3.0]})
WITH_NEGATIVES = with_values(epochs=2, negatives=Negatives(count=2))


@pytest.fixture(scope="module")
def trained(data: RankingData) -> Scorer:
    return train_ranker(data, BOTH, WITH_NEGATIVES, 1)[0]


def network(scorer: Scorer) -> WithPageNetwork:
    assert isinstance(scorer.model, WithPageNetwork)
    return scorer.model


def test_the_logits_of_clicks_are_those_of_a_ranker_without_negatives(data: RankingData, trained: Scorer) -> None:
    alone, _ = train_ranker(data, BOTH.model_copy(update={"page_network": False}), with_values(epochs=2), 1)
    batch = requests(data, BOTH, 4)
    assert torch.equal(alone.model.eval().score(batch), network(trained).eval().score(batch))


def test_the_page_is_ranked_by_the_other_network(data: RankingData, trained: Scorer) -> None:
    model, batch = network(trained).eval(), requests(data, BOTH, 4)
    assert torch.equal(model.page_score(batch), model.page.score(batch))
    assert not torch.allclose(model.page_score(batch), model.score(batch))
    nobody = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    found = trained.score([""], *nobody, np.array([9]), np.array([[1, 2, 3]]))
    nothing = torch.zeros(1, 10, dtype=torch.int64)
    untold = Batch(nothing[:, 0], torch.tensor([9]), nothing, nothing, batch.context[:1] * 0, torch.tensor([[1, 2, 3]]))
    np.testing.assert_allclose(found, model.page.score(untold).sigmoid().detach(), rtol=1e-5)


def test_popularity_starts_as_the_order_of_clicks_where_negatives_are_drawn(data: RankingData) -> None:
    still = WITH_NEGATIVES.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0})
    model = network(train_ranker(data, BOTH.model_copy(update={"popularity": [3.0, 9.0]}), still, 1)[0])
    assert model.page.popularity is not None
    assert model.clicks.popularity is not None
    np.testing.assert_allclose(model.page.popularity.weights.weight.detach(), [[0.5, 0.5, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(model.clicks.popularity.weights.weight.detach(), 0, atol=1e-6)


def test_a_saved_one_scores_as_before(data: RankingData, trained: Scorer, tmp_path: Path) -> None:
    trained.save(pafs.LocalFileSystem(), str(tmp_path))
    batch, loaded = requests(data, BOTH, 4), network(Scorer.load(pafs.LocalFileSystem(), str(tmp_path))).eval()
    assert torch.equal(loaded.score(batch), network(trained).eval().score(batch))
    assert torch.equal(loaded.page_score(batch), network(trained).eval().page_score(batch))


def test_without_negatives_or_impressions_that_were_not_clicked_it_is_refused(data: RankingData) -> None:
    with pytest.raises(ConfigError, match=r"page_network: this network learns from drawn negatives; set training\.negatives"):
        changed(Config(), {"ranker.page_network": True})
    with pytest.raises(DataError, match="all impressions of the training split were clicked"):
        train_ranker(replace(data, clicks_only=True), BOTH, WITH_NEGATIVES, 1)
