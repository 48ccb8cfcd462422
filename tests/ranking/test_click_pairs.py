"""DIN's attention over real pairs alone has the values and gradients of its layers over all pairs, padding included."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rayrec.config import Training
from rayrec.ranking import click_pairs
from rayrec.ranking.click_pairs import ClickPairs, pair_scores, pooled_clicks
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.sequences import ActivationUnit, PReLU
from tests.fixtures.ranking import prepared, small_log, small_ranker, with_model

Pooled = tuple[torch.Tensor, list[torch.Tensor]]


def slow_unit(unit: ActivationUnit, c: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The score of one pair, from the layers as the paper draws them."""
    x = unit.candidate(c) + unit.click(k) + unit.product(c * k)
    for layer in unit.rest:
        x = torch.where(x > 0, x, layer.slope * x) if isinstance(layer, PReLU) else layer(x)
    return x.squeeze(-1)


@pytest.mark.parametrize("at_once", [5, 8192])
@pytest.mark.parametrize("hidden", [[6], [7, 5], [8, 6, 4]])
@pytest.mark.parametrize("candidates", [1, 3])
def test_pairs_have_the_interests_and_gradients_of_a_loop(
    hidden: list[int], candidates: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(click_pairs, "PAIRS_AT_ONCE", at_once)
    unit, items = ActivationUnit(4, hidden, "prelu"), 6
    slopes = [layer.slope for layer in unit.rest if isinstance(layer, PReLU)]
    for slope, start in zip(slopes, [-0.1, 0.0, 1.0], strict=False):
        nn.init.constant_(slope, start)
    c_BNX, k_UX = torch.randn(5, candidates, 4, requires_grad=True), torch.randn(items, 4, requires_grad=True)
    index_BH, mask_BH = torch.randint(0, items, (5, 7)), torch.rand(5, 7) < 0.7
    mask_BH[1] = False  # nobody clicked anything
    leaves = [c_BNX, k_UX, *unit.parameters()]

    def fast() -> torch.Tensor:
        pairs = ClickPairs.of(index_BH, mask_BH, candidates, items)
        return pooled_clicks(pairs, unit.of_pairs(pairs, c_BNX, k_UX), k_UX).view_as(c_BNX)

    def slow() -> torch.Tensor:
        rows = []
        for b in range(5):
            for n in range(candidates):
                clicks = [k_UX[index_BH[b, h]] for h in range(7) if mask_BH[b, h]]
                found = [slow_unit(unit, c_BNX[b, n], k) * k for k in clicks]
                rows.append(torch.stack(found).sum(0) if found else torch.zeros(4))
        return torch.stack(rows).view_as(c_BNX)

    gradient = torch.randn(5, candidates, 4)
    (ours, of_ours), (theirs, of_theirs) = (with_gradients(compute, gradient, leaves) for compute in (fast, slow))
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def with_gradients(compute: Callable[[], torch.Tensor], gradient: torch.Tensor, leaves: list[torch.Tensor]) -> Pooled:
    found = compute()
    return found.detach(), list(torch.autograd.grad(found, leaves, gradient))


def test_scores_stand_where_their_pairs_were() -> None:
    mask = torch.tensor([[False, True, True], [False, False, True]])
    pairs = ClickPairs.of(torch.tensor([[0, 2, 1], [0, 0, 2]]), mask, 2, 3)
    assert pairs.item_Q.tolist() == [2, 1, 2, 1, 2, 2]
    assert pairs.candidate_Q.tolist() == [0, 0, 1, 1, 2, 3]
    spread = pairs.spread(torch.arange(1.0, 7.0))
    assert spread.tolist() == [[[0, 1, 2], [0, 3, 4]], [[0, 0, 5], [0, 0, 6]]]


def test_nobody_clicked_anything() -> None:
    unit, c_BNX, k_UX = ActivationUnit(4, [6, 5], "prelu"), torch.randn(2, 1, 4), torch.randn(3, 4, requires_grad=True)
    pairs = ClickPairs.of(torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, 7, dtype=torch.bool), 1, 3)
    interests = pooled_clicks(pairs, unit.of_pairs(pairs, c_BNX, k_UX), k_UX)
    assert torch.equal(interests, torch.zeros(2, 4))
    interests.sum().backward()
    for parameter in unit.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_a_second_backward_pass_is_refused() -> None:
    """The first one writes over what it has read."""
    pairs = ClickPairs.of(torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool), 1, 2)
    slope, c, k = torch.tensor(0.25, requires_grad=True), torch.randn(1, 3), torch.randn(2, 3)
    layer = slope, torch.randn(1, 4), torch.randn(1)
    scores = pair_scores(pairs, c, k, torch.randn(1, 4), torch.randn(2, 4), torch.randn(4, 3), [layer])
    scores.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scores.sum().backward()


@pytest.mark.parametrize("normalise", [False, True])
def test_din_learns_by_pairs_what_it_learns_by_its_layers(normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = with_model(small_ranker(), "din")
    ranker = ranker.model_copy(update={"options": {"normalise": normalise}})
    data, settings = prepared(small_log(), ranker), Training(epochs=1, batch_size=64, cut_histories=0.2, hidden_clicks=0.1)
    by_pairs = train_ranker(data, ranker, settings, 7)[0].model.state_dict()
    monkeypatch.setattr(ActivationUnit, "trains_by_pair", lambda self, device: False)
    by_layers = train_ranker(data, ranker, settings, 7)[0].model.state_dict()
    for name, weights in by_layers.items():
        torch.testing.assert_close(by_pairs[name], weights, rtol=1e-3, atol=1e-4)
