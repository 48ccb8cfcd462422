"""Properties of every model, whatever its formula."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Ranker, Split, Training
from rayrec.data.batches import Batch, training_batches
from rayrec.data.loading import RankingData, prepare
from rayrec.data.windows import HistoryGather
from rayrec.ranking.scorer import Scorer
from tests.fixtures.ranking import MODELS, joined
from tests.ranking.impressions import requests, untrained

CPU = torch.device("cpu")
FULL = {"fusion": "user_attention", "history_connection": "both"}
VARIANTS = {
    "full": FULL,
    "without topics": {"topics": False},
    "without modalities": {"modalities": []},
    "one modality": {"modalities": ["audio"], "fusion": "user_attention"},
    "concat": {"fusion": "concat", "history_connection": "top"},
    "attention": {"fusion": "attention"},
    "popularity": {"popularity": [2.0, 30.0]},
    "user kernels": {"user_kernels": True},
    "ids alone": {"topics": False, "modalities": [], "item_fields": [], "context_fields": []},
}

pytestmark = pytest.mark.parametrize("name", MODELS)


def prepared(raw: dict[str, pa.Table], settings: Ranker) -> RankingData:
    users = raw["users"] if settings.context_fields else None
    return prepare(raw["interactions"], joined(raw, settings), users, settings, Split(validation=0.1, test=0.2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_fields_do(raw: dict[str, pa.Table], settings: Ranker, name: str, variant: str) -> None:
    settings = settings.model_copy(update=VARIANTS[variant])
    data = prepared(raw, settings)
    model = untrained(name, data, settings).model
    batch = requests(data, settings, 3)
    logits = model(batch)
    assert logits.shape == (5, 3)
    assert logits.isfinite().all()
    assert model.score(batch).shape == (5, 3)
    assert model.losses(batch).shape == (5,)


def test_candidates_are_scored_alike_alone_and_together(raw: dict[str, pa.Table], settings: Ranker, name: str) -> None:
    settings = settings.model_copy(update=FULL)
    data = prepared(raw, settings)
    model = untrained(name, data, settings, spread=0.2).model.eval()
    batch = requests(data, settings, 30)
    times = batch.candidates.shape[1]
    repeated = {key: getattr(batch, key).repeat_interleave(times, 0) for key in ("user", "at", "history", "history_at", "context")}
    alone = Batch(**repeated, candidates=batch.candidates.flatten()[:, None])
    torch.testing.assert_close(model(alone).view_as(batch.candidates), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_frozen_items_change_no_score(raw: dict[str, pa.Table], settings: Ranker, name: str, variant: str) -> None:
    settings = settings.model_copy(update=VARIANTS[variant])
    data = prepared(raw, settings)
    scorer = untrained(name, data, settings, spread=0.2)
    batch = requests(data, settings, 30)
    model = scorer.model.eval()
    with torch.inference_mode():
        before = model.page_score(batch)
        taken = scorer.freeze(2**20)
        torch.testing.assert_close(model.page_score(batch), before, rtol=1e-5, atol=1e-5)
    assert taken <= 2**20
    assert scorer.freeze(taken - 1 if taken else 2**20) == 0  # what does not fit is left out
    with torch.inference_mode():
        assert torch.equal(model.page_score(batch), before)


def test_every_parameter_learns(raw: dict[str, pa.Table], settings: Ranker, name: str) -> None:
    settings = settings.model_copy(update=FULL)
    data = prepared(raw, settings)
    model = untrained(name, data, settings).model
    model.losses(requests(data, settings, 30)).mean().backward()
    still = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.to_dense().any()]
    assert still == []


def test_without_a_history_connection_the_history_makes_no_difference(
    raw: dict[str, pa.Table], settings: Ranker, name: str
) -> None:
    settings = settings.model_copy(update={"history_connection": "none", "fusion": "user_attention"})
    data = prepared(raw, settings)
    model = untrained(name, data, settings, spread=0.2).model.eval()
    batch = requests(data, settings, 30)
    other = replace(batch, history=batch.history.flip(0), history_at=batch.history_at.flip(0))
    empty = replace(batch, history=torch.zeros_like(batch.history), history_at=torch.zeros_like(batch.history_at))
    for changed in (other, empty):
        torch.testing.assert_close(model(changed), model(batch), rtol=1e-5, atol=1e-6)


def test_hidden_ids_make_no_difference(raw: dict[str, pa.Table], settings: Ranker, name: str) -> None:
    """With all ids hidden, users and videos may be numbered in any way, in the history too."""
    settings = settings.model_copy(update=FULL | {"id_dropout": 1.0, "dropout": 0.0})
    data = prepared(raw, settings)
    encoders = data.encoders
    for table in ("users", "items"):
        fields = getattr(encoders, table)
        renamed = {
            key: torch.cat([ids[:1], ids[1:].flip(0)]) if key in ("user_id", "video_id") else ids
            for key, ids in fields.categorical.items()
        }
        assert any(not torch.equal(renamed[key], ids) for key, ids in fields.categorical.items())
        encoders = replace(encoders, **{table: replace(fields, categorical=renamed)})
    batch, scores = requests(data, settings, 30), []
    for known_as in (data, replace(data, encoders=encoders)):
        model = untrained(name, known_as, settings, spread=0.2).model.train()
        scores.append(model(batch))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)


def test_an_unseen_video_is_scored_from_its_content(data: RankingData, settings: Ranker, name: str) -> None:
    unseen = replace(
        data.items, categorical={**data.items.categorical, "video_id": torch.zeros(len(data.items.ids), dtype=torch.int64)}
    )
    data = replace(data, encoders=replace(data.encoders, items=unseen))
    scores = torch.sigmoid(untrained(name, data, settings, spread=0.2).model.eval()(requests(data, settings, 30)))
    assert (scores.std(1) > 1e-4).all()


def test_a_saved_model_scores_as_before(data: RankingData, settings: Ranker, name: str, tmp_path: Path) -> None:
    scorer = untrained(name, data, settings, spread=0.2)
    scorer.save(pafs.LocalFileSystem(), str(tmp_path))
    loaded = Scorer.load(pafs.LocalFileSystem(), str(tmp_path))
    batch = requests(data, settings, 30)
    assert torch.equal(scorer.model.eval()(batch), loaded.model.eval()(batch))


def test_training_lowers_the_loss(data: RankingData, settings: Ranker, name: str) -> None:
    model = untrained(name, data, settings).model
    training = Training(batch_size=100, learning_rate=0.01, weight_decay=0)
    optimizer, gather = model.optimizer(training), HistoryGather(data.clicks, model.window, CPU)
    epochs = []
    for epoch in range(4):
        losses = []
        for batch, _ in training_batches(data.train, gather, training, CPU, 0, epoch):
            optimizer.zero_grad()
            loss = model.losses(batch).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        epochs.append(np.mean(losses))
    assert epochs[-1] < epochs[0] - 0.005


def test_a_video_that_training_never_saw_is_scored_and_the_others_as_before(
    raw: dict[str, pa.Table], settings: Ranker, name: str
) -> None:
    settings = settings.model_copy(update=FULL | {"user_kernels": True})
    scorer = untrained(name, prepared(raw, settings), settings, spread=0.2)
    items = joined(raw, settings)
    new = items.slice(3, 1).set_column(0, "video_id", pa.array(["new"]))
    grown = scorer.with_items(pa.concat_tables([new, items]))  # in front, so that all indices shift
    assert grown.item_ids == ["", "new", *scorer.item_ids[1:]]
    past, times, at = [np.array([3, 7, 4])], [np.array([1, 2, 3])], np.array([9])
    before = scorer.score(["u1"], past, times, at, np.arange(1, 41)[None])[0]
    after = grown.score(["u1"], [past[0] + 1], times, at, np.arange(1, 42)[None])[0]
    np.testing.assert_allclose(after[1:], before, atol=1e-6)
    assert 0 < after[0] < 1


def test_what_is_said_of_a_user_counts_like_what_training_knew(raw: dict[str, pa.Table], settings: Ranker, name: str) -> None:
    """u1 is 20 and from the north. To say so of u1 changes nothing; of a stranger, whose id alone stays unknown, it does."""
    data = prepared(raw, settings)
    scorer = untrained(name, data, settings, spread=0.2)

    def scores(user: str, told: str) -> list[float]:
        nothing = [np.empty(0, np.int32)] * 3, [np.empty(0, np.int64)] * 3
        found = scorer.score(["u2", user, "u3"], *nothing, np.zeros(3), np.array([[1, 2, 3]] * 3), None, ["", told, ""])
        return found[1].tolist()

    known, fields = scores("u1", ""), '{"age": 20, "region": "north", "shoe": ["size", 44]}'
    assert scores("u1", fields) == pytest.approx(known, abs=1e-6)
    stranger = scores("nobody", "")
    assert scores("nobody", '{"region": null}') == pytest.approx(stranger, abs=1e-6)
    assert (scores("nobody", fields) == pytest.approx(stranger, abs=1e-6)) == (name == "user_kernel")  # which reads ids alone
    assert scores("nobody", '{"age": "old", "region": ["north"]}') == pytest.approx(stranger, abs=1e-6)
    assert scores("nobody", "") == stranger  # what was said of one request's user is gone with it
