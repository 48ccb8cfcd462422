"""Every model as the body of a ranker with several goals."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Goal, Training
from rayrec.data.batches import Batch, training_batches
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather
from rayrec.ranking import goals
from rayrec.ranking.fitting import AUC, predict, predict_goals, train_ranker
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.scorer import Scorer
from rayrec.training.metrics import auc, xauc
from tests.fixtures.goals import GOALS, KINDS, OUTPUTS, log_with_labels, with_goals
from tests.fixtures.ranking import MODELS, prepared, small_ranker
from tests.ranking.impressions import requests

CPU = torch.device("cpu")
FULL = small_ranker().model_copy(update={"fusion": "user_attention", "history_connection": "both", "user_kernels": True})
ALONE = {"acf", "fm", "lr", "user_kernel"}  # models without a hidden layer that goals could share
PAIRS = [*((name, "mmoe") for name in MODELS), *(("emlp", kind) for kind in KINDS if kind != "mmoe")]
every = pytest.mark.parametrize(("name", "kind"), PAIRS)


@pytest.fixture(scope="module")
def data() -> RankingData:
    return prepared(log_with_labels(), with_goals(settings=FULL))


def model_of(name: str, kind: str, data: RankingData, spread: float = 0.0) -> SeveralGoals:
    torch.manual_seed(0)
    model = Scorer.untrained(with_goals(name, kind, FULL), data).model
    assert isinstance(model, SeveralGoals)
    for parameter in model.parameters() if spread else ():
        torch.nn.init.normal_(parameter, std=spread)
    return model


def labelled(data: RankingData, candidates: int) -> Batch:
    """Requests whose candidates have labels of all goals, or none."""
    batch, rng = requests(data, FULL, candidates), np.random.default_rng(4)
    shape = batch.candidates.shape
    labels = np.stack([*(rng.integers(0, 2, shape) for _ in range(2)), *(rng.exponential(5, shape) for _ in range(2))], -1)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    return replace(batch, goals=torch.from_numpy(labels).float())


@every
def test_shapes_and_that_every_parameter_learns(data: RankingData, name: str, kind: str) -> None:
    model, batch = model_of(name, kind, data), labelled(data, 30)
    assert len(model.bodies) == (len(GOALS) if name in ALONE else 1)
    assert model(batch).shape == (5, 30, OUTPUTS)
    assert model.values(batch).shape == (5, 30, len(GOALS))
    assert model.page_score(batch).shape == (5, 30)
    losses = model.losses(batch)
    assert losses.shape == (5,)
    losses.mean().backward()
    still = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.to_dense().any()]
    assert still == []


@every
def test_candidates_are_scored_alike_alone_and_together(data: RankingData, name: str, kind: str) -> None:
    model, batch = model_of(name, kind, data, spread=0.2).eval(), labelled(data, 30)
    repeated = {key: getattr(batch, key).repeat_interleave(30, 0) for key in ("user", "at", "history", "history_at", "context")}
    alone = Batch(**repeated, candidates=batch.candidates.flatten()[:, None])
    torch.testing.assert_close(model(alone).view(5, 30, OUTPUTS), model(batch), rtol=1e-4, atol=1e-5)


@every
def test_training_lowers_the_loss_and_a_saved_ranker_scores_as_before(
    data: RankingData, name: str, kind: str, tmp_path: Path
) -> None:
    ranker, settings = with_goals(name, kind, FULL), Training(epochs=3, batch_size=100, learning_rate=0.01, weight_decay=0)
    scorer, epochs = train_ranker(data, ranker, settings, 0)
    assert epochs[-1].loss < epochs[0].loss - 0.01
    assert {"validation_like_auc", "validation_click_auc", "validation_watch_xauc", "validation_long_xauc"} < epochs[
        0
    ].metrics.keys()
    fs = pafs.LocalFileSystem()
    scorer.save(fs, str(tmp_path))
    past = [np.array([3, 7, 4])], [np.array([1, 2, 3])]
    before, after = (
        each.score(["u1"], *past, np.array([9]), np.array([[1, 5, 0, 9]])) for each in (scorer, Scorer.load(fs, str(tmp_path)))
    )
    assert before.shape == (1, 4, len(GOALS))
    assert np.array_equal(before, after)
    assert not before[0, 2].any()  # no item
    assert (before[0, [0, 1, 3]] > 0).all()


def test_the_metrics_are_those_of_the_predictions(data: RankingData) -> None:
    scorer, epochs = train_ranker(data, with_goals(settings=FULL), Training(epochs=1, batch_size=100), 0)
    gather, part = HistoryGather(data.clicks, scorer.model.window, CPU), data.validation
    assert isinstance(scorer.model, SeveralGoals)
    assert part.goals is not None
    values = predict_goals(scorer.model, part, gather, CPU)
    assert np.array_equal(predict(scorer.model, part, gather, CPU), values[:, 1])
    known = ~np.isnan(part.goals[:, 0])
    assert 0 < known.sum() < len(part)
    metrics = epochs[0].metrics
    assert metrics[AUC] == metrics["validation_click_auc"] == pytest.approx(auc(part.clicked, values[:, 1]))
    assert metrics["validation_like_auc"] == pytest.approx(auc(part.goals[known, 0] > 0, values[known, 0]))
    assert metrics["validation_long_xauc"] == pytest.approx(xauc(part.goals[:, 3], values[:, 3]))


def test_the_loss_is_the_weighted_sum_of_the_labels_that_are_known(data: RankingData) -> None:
    model, batch = model_of("emlp", "mmoe", data, spread=0.2).eval(), labelled(data, 4)
    assert batch.goals is not None
    outputs, losses = model(batch).tolist(), model.losses(batch).tolist()
    for b in range(5):
        total = 0.0
        for n in range(4):
            if batch.candidates[b, n] == 0 and n > 0:
                continue
            like, click, watch, *quantiles = outputs[b][n]
            labels = batch.goals[b, n].tolist()
            each = [
                log_loss(like, labels[0]),
                log_loss(click, labels[1]),
                0.5 * weighted(watch, labels[2]),
                pinball(quantiles, labels[3]),
            ]
            total += sum(loss for loss, label in zip(each, labels, strict=True) if not math.isnan(label))
        assert losses[b] == pytest.approx(total / 4, rel=1e-4)


def log_loss(logit: float, label: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -label * math.log(p) - (1 - label) * math.log(1 - p)


def weighted(logit: float, label: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -label * math.log(p) - math.log(1 - p)


def pinball(outputs: list[float], label: float) -> float:
    total, value = 0.0, 0.0
    for level, output in zip((0.25, 0.5, 0.9), outputs, strict=True):
        value += math.log1p(math.exp(output))
        total += level * (label - value) if label > value else (1 - level) * (value - label)
    return total / 3


def fitted(goal: Goal, labels: torch.Tensor) -> float:
    """The value of the outputs that have the smallest loss for labels of one and the same impression."""
    outputs = torch.zeros(goal.outputs, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(1500):
        optimizer.zero_grad()
        goals._losses(goal, outputs.expand(len(labels), 1, -1), labels[:, None]).mean().backward()
        optimizer.step()
    return float(goals._value(goal, outputs.detach()[None, None]))


def test_the_value_of_a_goal_is_the_mean_of_its_labels() -> None:
    """Of yes and no and of seconds exactly, however many are clicked; by quantiles nearly."""
    labels = torch.tensor([0.0, 0.0, 2.0, 4.0, 9.0])
    assert fitted(Goal(label="clicked"), (labels > 0).float()) == pytest.approx(0.6, abs=1e-3)
    assert fitted(Goal(label="watch_s", loss="weighted_logistic"), labels) == pytest.approx(3, abs=1e-2)
    spread = torch.linspace(0, 10, 101)
    levels = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    assert fitted(Goal(label="watch_s", loss="quantiles", quantiles=levels), spread) == pytest.approx(5, abs=0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of Dynamo itself, which looks at it
def test_a_compiled_training_is_the_same(data: RankingData, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Dynamo takes it apart and puts it together again; the kernels that a GPU gets beyond that are not of interest here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    ranker = with_goals("emlp", "mmoe")
    settings = [Training(epochs=1, batch_size=100).model_copy(update={"compile": compiled}) for compiled in (False, True)]
    plain, compiled = (train_ranker(data, ranker, each, 0)[1][0] for each in settings)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-6)
    assert compiled.metrics == pytest.approx(plain.metrics, abs=1e-6)


def test_a_label_that_is_missing_teaches_nothing(data: RankingData) -> None:
    """Not even the parameters of its goal's tower."""
    model, batch = model_of("emlp", "ple", data), labelled(data, 3)
    assert batch.goals is not None
    batch.goals[..., 0] = torch.nan
    model.losses(batch).sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.towers[0].parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.towers[1].parameters())


def test_a_body_keeps_its_auxiliary_loss(data: RankingData) -> None:
    ranker = with_goals("mmie", settings=FULL)
    plain, both = (
        Scorer.untrained(ranker.model_copy(update={"options": {"auxiliary": weight}}), data).model.eval() for weight in (0, 1)
    )
    both.load_state_dict(plain.state_dict())
    gather, settings = HistoryGather(data.clicks, plain.window, CPU), Training(batch_size=50)
    batch, _ = next(training_batches(data.train, gather, settings, CPU, 0, 0))
    more = both.losses(batch) - plain.losses(batch)
    has_next = (batch.history > 0).sum(1) > 1  # a click that follows another
    assert (more[has_next] > 0.1).all()
    assert has_next.sum() > 25
    torch.testing.assert_close(more[~has_next], torch.zeros_like(more[~has_next]))
