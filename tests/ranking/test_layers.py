"""Layers against their definitions written as loops."""

import pytest
import torch

from rayrec.ranking.fields import FieldTable
from rayrec.ranking.layers import FieldEmbedding, RequestMLP, value_counts


@pytest.fixture
def table() -> FieldTable:
    return FieldTable(
        ["", "a", "b", "c"],
        categorical={"kind": torch.tensor([0, 1, 2, 1])},
        multivalued={"tags": torch.tensor([[0, 0], [1, 2], [2, 0], [0, 0]])},
        numeric={"age": torch.tensor([0.0, 1.0, -1.0, 0.5])},
        vectors={"sound": torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])},
    )


@pytest.fixture
def embedding(table) -> FieldEmbedding:
    torch.manual_seed(0)
    return FieldEmbedding(table, {"kind": 3, "tags": 3}, {"kind": 4, "tags": 2, "age": 3, "sound": 2}).eval()


def test_each_kind_of_field_is_embedded_as_defined(embedding, table):
    modules = embedding.embeddings
    row = 1
    expected = torch.cat(
        [
            modules["categorical__kind"].weight[1],
            modules["multivalued__tags"].weight[[1, 2]].mean(0),
            modules["numeric__age"].weight[:, 0] * 1.0,
            modules["vectors__sound"].weight @ table.vectors["sound"][1],
        ]
    )
    torch.testing.assert_close(embedding(torch.tensor([[row]]))[0, 0], expected)
    assert embedding(torch.tensor([3]))[0, 4:6].tolist() == [0.0, 0.0]  # no tags at all


def test_mean_is_the_masked_mean_of_forward(embedding):
    rows = torch.tensor([[0, 0, 1, 2], [3, 3, 1, 2], [0, 0, 0, 0]])
    for line, mean in zip(rows, embedding.mean(rows), strict=True):
        there = line[line > 0]
        expected = embedding(there).mean(0) if len(there) else torch.zeros(embedding.size)
        torch.testing.assert_close(mean, expected)


def test_ids_are_hidden_only_while_training(table):
    hiding = FieldEmbedding(table, {"kind": 3, "tags": 3}, {"kind": 4, "tags": 2, "age": 3, "sound": 2}, "kind", id_dropout=1.0)
    rows = torch.tensor([1, 2])
    assert torch.equal(hiding.train()(rows)[0, :4], hiding.train()(rows)[1, :4])
    assert not torch.equal(hiding.eval()(rows)[0, :4], hiding.eval()(rows)[1, :4])


def test_request_mlp_is_an_mlp_over_the_concatenation():
    torch.manual_seed(0)
    mlp = RequestMLP(3, 2, [5, 4], dropout=0.0)
    request, candidates = torch.randn(2, 3), torch.randn(2, 6, 2)
    out = mlp(request, candidates)
    for b in range(2):
        for n in range(6):
            first = (
                torch.cat([mlp.request.weight, mlp.candidate.weight], 1) @ torch.cat([request[b], candidates[b, n]])
                + mlp.request.bias
            )
            torch.testing.assert_close(out[b, n], mlp.rest(first)[0])


def test_value_counts_leave_padding_out():
    assert value_counts(torch.tensor([[1, 1, 0], [0, 2, 0]]), 3).tolist() == [[0, 2, 0], [0, 0, 1]]
