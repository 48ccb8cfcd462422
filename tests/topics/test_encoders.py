"""Encoders of covers and titles: what they ignore, what they leave out."""

import pytest
import torch
from torch import nn

from rayrec.topics.contents import Batch
from rayrec.topics.encoders import CoverEncoder, Encoders, TitleBag, TitleTransformer, mean_over, with_gaps


@pytest.mark.parametrize("encoder", [TitleBag, TitleTransformer])
def test_padding_changes_nothing(encoder: type[TitleBag | TitleTransformer]) -> None:
    torch.manual_seed(0)
    network = encoder(50, 6).eval()
    short = torch.tensor([[7, 3, 9]])
    torch.testing.assert_close(network(short), network(torch.tensor([[7, 3, 9, 0, 0], [1, 2, 3, 4, 5]]))[:1], rtol=1e-4, atol=1e-5)
    assert network(torch.zeros(2, 4, dtype=torch.int64)).isfinite().all()


def test_a_transformer_reads_the_order_of_words_and_a_bag_does_not() -> None:
    torch.manual_seed(0)
    forth, back = torch.tensor([[7, 3, 9]]), torch.tensor([[9, 3, 7]])
    bag, transformer = TitleBag(50, 6).eval(), TitleTransformer(50, 6).eval()
    torch.testing.assert_close(bag(forth), bag(back))
    assert not torch.allclose(transformer(forth), transformer(back), atol=1e-4)


def test_gaps_take_about_a_third_of_the_words() -> None:
    torch.manual_seed(0)
    kept = (with_gaps(torch.ones(100, 100, dtype=torch.int64)) > 0).float().mean()
    assert 0.68 < kept < 0.72


def test_the_mean_over_nothing_is_zero() -> None:
    states = torch.randn(2, 3, 4)
    there = torch.tensor([[True, False, True], [False, False, False]])
    torch.testing.assert_close(mean_over(states, there)[0], (states[0, 0] + states[0, 2]) / 2)
    assert not mean_over(states, there)[1].any()


def test_z_is_what_the_parts_say_side_by_side() -> None:
    covers = CoverEncoder(nn.Flatten(), 12, 5)
    covers.body = nn.Sequential(nn.Flatten())
    encoders = Encoders(nn.Linear(3, 5), None, TitleBag(10, 5), 5).eval()
    batch = Batch(torch.randn(2, 3), None, torch.tensor([[1, 2], [3, 0]]))
    z = encoders(batch)
    assert z.shape == (2, encoders.size) == (2, 10)
    torch.testing.assert_close(z[:, :5], encoders.vectors(batch.vectors))
    torch.testing.assert_close(z[:, 5:], encoders.titles(batch.titles))
