"""The layers over sequences equal loops, and torch's own layers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from rayrec.config import Ranker
from rayrec.data.batches import batches
from rayrec.data.loading import RankingData
from rayrec.data.windows import MINUTE_MS, HistoryGather, LatestClicks
from rayrec.ranking.sequences import AUGRU, ActivationUnit, ClickedSequence, PReLU, compacted, run_rnn, split_sessions
from tests.ranking.impressions import dot, linear, requests, softmax, untrained


def sessions_of(times: list[int], gap_minutes: float) -> list[list[int]]:
    """The indices of the clicks in each session, oldest first."""
    found: list[list[int]] = []
    for click, time in enumerate(times):
        if not click or time - times[click - 1] > gap_minutes * MINUTE_MS:
            found.append([])
        found[-1].append(click)
    return found


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _gru(of_input: list[float], of_state: list[float], state: list[float], weight: float) -> list[float]:
    """The next state, from the products of the reset, update and new gates. As in DIEN, u is the share of the new state."""
    size = len(state)
    after = []
    for i in range(size):
        reset = sigmoid(of_input[i] + of_state[i])
        update = weight * sigmoid(of_input[size + i] + of_state[size + i])
        new = math.tanh(of_input[2 * size + i] + reset * of_state[2 * size + i])
        after.append((1 - update) * state[i] + update * new)
    return after


def _products(weight: torch.Tensor, bias: torch.Tensor, vector: list[float]) -> list[float]:
    return [dot(row, vector) + shift for row, shift in zip(weight.tolist(), bias.tolist(), strict=True)]


def gru_step(layer: AUGRU, step: list[float], state: list[float], weight: float) -> list[float]:
    of_state = _products(layer.gates.weight, layer.gates.bias, state) + _products(layer.new.weight, layer.new.bias, state)
    return _gru(_products(layer.input.weight, layer.input.bias, step), of_state, state, weight)


def torch_gru_step(layer: nn.GRU | nn.GRUCell, step: list[float], state: list[float]) -> list[float]:
    """The update gate of torch is the share of the old state: 1 - u."""
    w_in, w_state, b_in, b_state = [parameter.detach().clone() for parameter in layer.parameters()]
    size = len(state)
    for tensor in (w_in, w_state, b_in, b_state):
        tensor[size : 2 * size] *= -1  # sigmoid(-z) = 1 - sigmoid(z)
    return _gru(_products(w_in, b_in, step), _products(w_state, b_state, state), state, 1.0)


def interest_of(layer: ClickedSequence, clicked: list[list[float]], candidate: list[float]) -> list[float]:
    """What `layer` reads of the clicks in their order, one step at a time; nothing with `sequence: mean`."""
    if layer.gru is None:
        return []
    states, state = [], [0.0] * layer.gru.new.in_features
    for click in clicked:
        state = gru_step(layer.gru, linear(layer.click, click), state, 1.0)
        states.append(state)
    if layer.attention is None or not states:
        return state
    guide = linear(layer.attention.linear, candidate)
    weights = softmax([dot(one, guide) for one in states])
    return [dot(weights, list(column)) for column in zip(*states, strict=True)]


def test_compacted_clicks_keep_their_order(data: RankingData, settings: Ranker) -> None:
    model = untrained("din", data, settings).model
    x = model.inputs(requests(data, settings, 2))
    y = compacted(x)
    for b in range(5):
        clicks = [index for index, kept in zip(x.index_BH[b].tolist(), x.mask_BH[b].tolist(), strict=True) if kept]
        assert y.index_BH[b, : len(clicks)].tolist() == clicks
        assert y.mask_BH[b].tolist() == [True] * len(clicks) + [False] * (y.mask_BH.shape[1] - len(clicks))


def test_sessions_equal_a_loop_over_clicks(data: RankingData, settings: Ranker) -> None:
    settings = settings.model_copy(update={"history_length": 30})
    torch.manual_seed(3)
    x = untrained("din", data, settings).model.inputs(requests(data, settings, 2))
    times = torch.randint(0, 120, (5, 30)).sort().values * 10 * MINUTE_MS  # with gaps of just 20 minutes, too
    x = replace(x, mask_BH=x.mask_BH & (torch.rand(5, 30) < 0.8))
    y = split_sessions(x, times, 20, 4, 3)
    assert y.mask_BH.any(1).tolist() == x.mask_BH.any(1).tolist()
    for b in range(5):
        clicks = [h for h in range(30) if x.mask_BH[b, h]]
        expected = []
        newest = sessions_of([times[b, h].item() for h in clicks], 20)[::-1][:4]
        for session in [*newest, *[[]] * (4 - len(newest))]:
            kept = [x.index_BH[b, clicks[click]].item() for click in session[::-1][:3]]
            expected += kept + [None] * (3 - len(kept))
        got = [index if kept else None for index, kept in zip(y.index_BH[b].tolist(), y.mask_BH[b].tolist(), strict=True)]
        assert got == expected


@pytest.mark.parametrize("name", ["sdin", "sdin_fm", "hrnn"])
def test_models_of_sessions_read_the_same_from_their_window_as_from_the_whole_history(
    data: RankingData, settings: Ranker, name: str
) -> None:
    model = untrained(name, data, settings, spread=0.3, sessions=2, session_length=3, gap_minutes=600).model.eval()
    cpu = torch.device("cpu")
    longest = int((data.test.end - data.clicks.offsets[data.test.user]).max())
    scores = []
    for window in (model.window, LatestClicks(longest)):
        batch = next(iter(batches(data.test, HistoryGather(data.clicks, window, cpu), len(data.test), cpu)))
        scores.append(model(batch))
    assert model.window.width < longest
    torch.testing.assert_close(scores[0], scores[1])


def test_augru_equals_a_loop_and_stays_at_weight_0() -> None:
    torch.manual_seed(0)
    layer, inputs, weights = AUGRU(3), torch.randn(2, 5, 3), torch.rand(2, 4, 5)
    weights[:, :, 2] = 0
    states = layer(inputs, weights)
    for b in range(2):
        for n in range(4):
            state = [0.0] * 3
            for t in range(5):
                state = gru_step(layer, inputs[b, t].tolist(), state, weights[b, n, t].item())
                torch.testing.assert_close(states[t][b, n], torch.tensor(state))
    assert torch.equal(states[2], states[1])


def test_recurrence_ends_with_each_sequence() -> None:
    torch.manual_seed(0)
    layer, sequence = nn.LSTM(3, 2, batch_first=True, bidirectional=True), torch.randn(4, 6, 3)
    lengths = [6, 2, 0, 1]
    output = run_rnn(layer, sequence, torch.arange(6) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        if length:
            torch.testing.assert_close(output[row, :length], layer(sequence[row, :length])[0])
        assert not output[row, length:].any()


def test_prelu_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = PReLU(), nn.PReLU()
    results = []
    for layer in (ours, theirs):
        x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
        layer(x).mul(torch.arange(12.0).view(3, 4)).sum().backward()
        (slope,) = layer.parameters()
        results.append((layer(x), x.grad, slope.grad.squeeze()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("activation", ["prelu", "dice", "sigmoid"])
def test_many_candidates_get_the_scores_that_few_get(activation: str) -> None:
    torch.manual_seed(0)
    unit = ActivationUnit(3, [5, 4], activation).eval()
    candidates, clicks = torch.randn(2, 12, 3), torch.randn(2, 6, 3)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    few = torch.cat([unit(some, clicks, mask) for some in candidates.split(3, 1)], 1)
    torch.testing.assert_close(unit(candidates, clicks, mask), few)
