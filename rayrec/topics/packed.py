"""A pre-norm transformer encoder that computes the tokens that are there, and no padding.

The titles of a batch are of very different lengths: of made-up captions two thirds of a padded batch were padding or left out at
random, and half of what was left was spent on drawing the masks of dropout. Shapes: T tokens of all titles in one row, B titles,
L slots (the most tokens of a title), W = the encoder's width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear


class Slots:
    """Where the tokens of a batch are when they are side by side [T], and when each title has a row of its own [B, L]."""

    def __init__(self, there_BL: Tensor) -> None:
        """`there_BL`: where titles have a token. The slots of a title are its tokens in their order, without gaps."""
        self.title_T, self.place_T = there_BL.nonzero(as_tuple=True)
        self.counts_B = there_BL.sum(1)
        self.titles, self.length = len(there_BL), max(1, int(self.counts_B.max())) if len(there_BL) else 1
        starts_B = self.counts_B.cumsum(0) - self.counts_B
        self.at_T = torch.arange(len(self.title_T), device=there_BL.device) + self.title_T * self.length - starts_B[self.title_T]
        self.filled_BL = torch.arange(self.length, device=there_BL.device) < self.counts_B[:, None]

    def spread(self, values_TX: Tensor) -> Tensor:
        """The values in rows [B, L, X], zeros where there is none."""
        rows = values_TX.new_zeros(self.titles * self.length, values_TX.shape[1])
        return rows.index_copy(0, self.at_T, values_TX).unflatten(0, (self.titles, self.length))

    def gather(self, rows_BLX: Tensor) -> Tensor:
        """The values of the tokens, side by side [T, X]."""
        return rows_BLX.flatten(0, 1).index_select(0, self.at_T)

    def mean(self, values_TX: Tensor) -> Tensor:
        """The mean over each title's tokens [B, X]; zeros for a title without any."""
        sums = values_TX.new_zeros(self.titles, values_TX.shape[1]).index_add(0, self.title_T, values_TX)
        return sums / self.counts_B.clamp(min=1)[:, None]


def encoded(encoder: nn.TransformerEncoder, states_TW: Tensor, slots: Slots) -> Tensor:
    """What `encoder` (pre-norm, batch first) makes of the tokens, [T, W]: without dropout exactly what its own `forward` does."""
    for layer in encoder.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        share = layer.dropout1.p if encoder.training else 0.0
        states_TW = states_TW + cheap_dropout(attended(layer.self_attn, layer.norm1(states_TW), slots), share)
        hidden = layer.activation(layer.linear1(layer.norm2(states_TW)))
        states_TW = states_TW + cheap_dropout(layer.linear2(hidden), share)
    return states_TW if encoder.norm is None else encoder.norm(states_TW)


def attended(attention: nn.MultiheadAttention, states_TW: Tensor, slots: Slots) -> Tensor:
    """Multi-head self-attention among the tokens of each title, [T, W]."""
    heads, width = attention.num_heads, attention.head_dim
    mixed = slots.spread(linear(states_TW, attention.in_proj_weight, attention.in_proj_bias))
    queries, keys, values = mixed.unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)  # each [B, H, L, W / H]
    scores_BHLL = queries @ keys.transpose(-1, -2) / math.sqrt(width)
    # Not minus infinity: the softmax of a title without tokens would be NaN, and so would all gradients.
    weights_BHLL = scores_BHLL.masked_fill(~slots.filled_BL[:, None, None], torch.finfo(scores_BHLL.dtype).min).softmax(-1)
    return attention.out_proj(slots.gather((weights_BHLL @ values).transpose(1, 2).flatten(2)))


def cheap_dropout(values: Tensor, share: float) -> Tensor:
    """Dropout whose share is rounded to one of 256 steps.

    On a CPU one random number serves eight values, which is several times faster than one for each.
    """
    if not share:
        return values
    if values.device.type != "cpu":
        return dropout(values, share)
    dropped = round(256 * share)
    draws = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped
    return values * kept * (256 / (256 - dropped))
