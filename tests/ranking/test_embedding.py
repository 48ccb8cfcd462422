"""Embedded fields and batches equal their definitions, written as loops."""

import pytest
import torch

from rayrec.config import Ranker
from rayrec.data.batches import Batch, batches
from rayrec.data.fields import FieldTable
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather, LatestClicks
from rayrec.ranking.embedding import FieldEmbedding, Inputs, concatenate_fields, masked_softmax


@pytest.fixture
def table() -> FieldTable:
    return FieldTable(
        ["", "a", "b", "c"],
        categorical={"kind": torch.tensor([0, 1, 2, 1])},
        multivalued={"tags": torch.tensor([[0, 0], [1, 2], [2, 0], [0, 0]]), "topics": torch.tensor([[0], [2], [1], [2]])},
        numeric={"age": torch.tensor([0.0, 1.0, -1.0, 0.5])},
        vectors={"sound": torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])},
        sizes={"kind": 3, "tags": 3, "topics": 3},
    )


def embedding_of(table: FieldTable, id_dropout: float = 0.0) -> FieldEmbedding:
    torch.manual_seed(0)
    embedding = FieldEmbedding(table, 4, 2, "kind", id_dropout, ["sound"])
    for parameter in embedding.parameters():
        torch.nn.init.normal_(parameter)
    return embedding


def test_each_kind_of_field_is_embedded_as_defined(table: FieldTable) -> None:
    embedding = embedding_of(table).eval()
    lookup, topics = embedding.lookups
    kind, tags = lookup.weight[:3], lookup.weight[3:]
    row = torch.cat(
        [
            kind[1],
            tags[[1, 2]].mean(0),
            topics.weight[2],
            embedding.number_vectors[0] * 1.0,
            embedding.projections["sound"].linear.weight @ table.vectors["sound"][1],
        ]
    )
    vectors, weights = embedding(torch.tensor([1, 3]))
    ends = [4, 9, 12, 17, 22]
    expected = torch.tensor([value for index, value in enumerate(row.tolist()) if index not in ends])
    torch.testing.assert_close(vectors[0], expected)
    torch.testing.assert_close(weights[0], row[ends].sum())
    assert vectors[1, 4:8].tolist() == [0.0] * 4  # no tags at all
    assert embedding.names == ["kind", "tags", "topics", "age", "sound"]
    assert embedding.size == vectors.shape[1]


def test_ids_are_hidden_only_while_training(table: FieldTable) -> None:
    hiding, rows = embedding_of(table, id_dropout=1.0), torch.tensor([1, 2])
    seen, _ = hiding.train()(rows)
    assert torch.equal(seen[0, :4], seen[1, :4])
    assert torch.equal(seen[0, :4], hiding.lookups[0].weight[0, :-1])
    seen, _ = hiding.eval()(rows)
    assert not torch.equal(seen[0, :4], seen[1, :4])
    assert hiding.lookups[0].values[torch.tensor([1])][0, 0] == 1  # the table itself is as it was


def test_values_that_training_never_saw_add_nothing(table: FieldTable) -> None:
    untrained = FieldEmbedding(table, 4, 2, "kind", 0.0, [])
    unknown, known = untrained.lookups[0](torch.tensor([0, 1]))
    assert not unknown.any()
    assert known[:, :-1].all()


def test_gradients_name_the_rows_that_were_looked_up(table: FieldTable) -> None:
    embedding = embedding_of(table)
    vectors, weights = embedding(torch.tensor([2, 2]))
    (vectors.sum() + weights.sum()).backward()
    gradient = embedding.lookups[0].weight.grad
    assert gradient.is_sparse
    touched = gradient.coalesce()
    rows = touched.indices()[0][touched.values().any(1)]
    assert rows.tolist() == [2, 3 + 2]


@pytest.fixture
def batch(data: RankingData, settings: Ranker) -> Batch:
    gather = HistoryGather(data.clicks, LatestClicks(settings.history_length), torch.device("cpu"))
    return next(iter(batches(data.test, gather, 20, torch.device("cpu"))))


@pytest.mark.parametrize("fusion", ["concat", "attention", "user_attention"])
def test_a_batch_is_its_rows_embedded_one_by_one(data: RankingData, settings: Ranker, batch: Batch, fusion: str) -> None:
    torch.manual_seed(0)
    inputs = Inputs(settings.model_copy(update={"fusion": fusion}), data.tables, 4, 3).eval()
    for parameter in inputs.parameters():
        torch.nn.init.normal_(parameter)
    x = inputs(batch)
    assert x.request_BR.shape == (20, inputs.request_size)
    assert x.candidates_BNE.shape == (20, 1, inputs.item_size)

    def item(row: torch.Tensor, request: torch.Tensor) -> torch.Tensor:
        vectors = inputs.items(row[None])[0][0]
        if fusion == "concat":
            return vectors
        scores, values = [], []
        for name, projection in zip(sorted(data.items.vectors), inputs.fusion.projections, strict=True):
            raw = data.items.vectors[name][row]
            if raw.any():
                value = projection.linear.weight @ raw
                query = inputs.fusion.query(request) if fusion == "user_attention" else None
                scores.append(value[:-1] @ query / 2 if query is not None else inputs.fusion.score(value[:-1])[0])
                values.append(value)
        if not values:
            return torch.cat([vectors, torch.zeros(4)])
        shares = torch.softmax(torch.stack(scores), 0)
        return torch.cat([vectors, sum(share * value[:-1] for share, value in zip(shares, values, strict=True))])

    for b in range(20):
        request = x.request_BR[b]
        torch.testing.assert_close(x.candidates_BNE[b, 0], item(batch.candidates[b, 0], request), rtol=1e-4, atol=1e-5)
        clicked = [item(row, request) for row in batch.history[b] if row]
        mean = torch.stack(clicked).mean(0) if clicked else torch.zeros(inputs.item_size)
        torch.testing.assert_close(x.mean_clicked_BE[b], mean, rtol=1e-4, atol=1e-5)
        if clicked:
            torch.testing.assert_close(x.clicked_BHE[b][x.mask_BH[b]], torch.stack(clicked), rtol=1e-4, atol=1e-5)


def test_derivatives_of_concatenated_fields_are_those_of_their_slices() -> None:
    parts = [torch.randn(3, fields, size, dtype=torch.float64, requires_grad=True) for fields, size in ((2, 5), (1, 3))]
    assert torch.autograd.gradcheck(lambda *parts: concatenate_fields(list(parts)), parts)


def test_softmax_over_nothing_is_zeros() -> None:
    shares = masked_softmax(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [False, False]]))
    assert shares.tolist() == [[1, 0], [0, 0]]
