"""The transformer that skips padding, against torch's own on padded rows, and dropout from bytes."""

import pytest
import torch
from torch import nn

from rayrec.topics.packed import Slots, cheap_dropout, encoded


def encoder_of(dropout: float = 0.0) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 32, dropout, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)


# Gaps before, between and after tokens; the last title is full.
THERE = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)


def test_tokens_get_what_torchs_encoder_makes_of_padded_rows_and_so_do_gradients() -> None:
    encoder, states_BLW = encoder_of(), torch.randn(4, 4, 8)
    slots = Slots(THERE)
    found = encoded(encoder, states_BLW[slots.title_T, slots.place_T], slots)
    expected = encoder(states_BLW, src_key_padding_mask=~THERE)[THERE]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = list(encoder.parameters())
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), weights), torch.autograd.grad(expected.square().sum(), weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_slots_are_filled_from_the_left_and_emptied_again() -> None:
    slots = Slots(THERE)
    values = torch.arange(1.0, 10).unsqueeze(1)
    rows = slots.spread(values)[:, :, 0]
    assert rows.tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [5, 0, 0, 0], [6, 7, 8, 9]]
    assert torch.equal(slots.gather(rows.unsqueeze(2)), values)
    assert slots.mean(values).flatten().tolist() == [1.5, 3.5, 5, 7.5]


@pytest.mark.parametrize("there", [torch.zeros(2, 3, dtype=torch.bool), torch.tensor([[False, False], [True, False]])])
def test_a_title_without_tokens_is_zeros_and_spoils_no_gradient(there: torch.Tensor) -> None:
    encoder, slots = encoder_of(0.5), Slots(there)
    states = torch.randn(int(there.sum()), 8, requires_grad=True)
    mean_BW = slots.mean(encoded(encoder.train(), states, slots))
    assert not mean_BW[0].any()
    mean_BW.sum().backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in encoder.parameters())


def test_dropout_keeps_its_share_and_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.ones(1000, 333)
    found = cheap_dropout(values, 0.3)
    kept = found != 0
    assert kept.float().mean().item() == pytest.approx(1 - 77 / 256, abs=0.002)
    assert found.mean().item() == pytest.approx(1, abs=0.005)
    assert found[kept].unique().item() == pytest.approx(256 / 179)
    # No column and no neighbour is favoured, as it would be if some of the eight bytes of a draw were not random.
    assert kept.float().mean(0).std().item() < 0.02
    assert torch.corrcoef(torch.stack([kept[:, 0].float(), kept[:, 1].float()]))[0, 1].abs() < 0.1
    assert cheap_dropout(values, 0) is values
