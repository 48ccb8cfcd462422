"""What the models are composed of. Shapes: B requests, N candidates, H history, V values of a multi-valued field, D embedding."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from rayrec.ranking.fields import FieldTable


class FieldEmbedding(nn.Module):
    """Looks rows of a `FieldTable` up and embeds each field; the table sits beside the weights, on their device.

    A categorical value is one vector, a multi-valued field the mean of its values' vectors, a number a multiple of its field's
    vector (SOURCES B, "Fields"), a modality vector a learned projection. Value 0 (unknown, padding) of a multi-valued field counts
    for nothing; value 0 of a categorical field has a vector of its own. `hidden_ids` is the categorical field whose values are
    turned into 0 with probability `id_dropout` while training, so that the rest of the model learns to do without it.
    """

    def __init__(
        self, table: FieldTable, sizes: dict[str, int], dims: dict[str, int], hidden_ids: str | None = None, id_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hidden_ids, self.id_dropout = hidden_ids, id_dropout
        self.names = list(table.tensors())
        for key, tensor in table.tensors().items():
            self.register_buffer(_attribute(key), tensor, persistent=False)
        self.embeddings = nn.ModuleDict()
        for key, tensor in table.tensors().items():
            kind, name = key.split(".", 1)
            if kind in ("categorical", "multivalued"):
                self.embeddings[_attribute(key)] = nn.Embedding(
                    sizes[name], dims[name], padding_idx=0 if kind == "multivalued" else None
                )
            else:
                self.embeddings[_attribute(key)] = nn.Linear(tensor.shape[1] if tensor.ndim == 2 else 1, dims[name], bias=False)
        for module in self.embeddings.values():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)
                if module.padding_idx is not None:
                    module.weight.data[0] = 0
        self.size = sum(dims[key.split(".", 1)[1]] for key in self.names)

    def values(self, key: str, row: torch.Tensor) -> torch.Tensor:
        """The stored values of a field (`kind.name`) for rows of any shape."""
        return self.get_buffer(_attribute(key))[row]

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        """Rows [...] to their fields' embeddings side by side [..., size]."""
        return torch.cat([self._embed(key, row) for key in self.names], dim=-1)

    def mean(self, rows_BH: torch.Tensor) -> torch.Tensor:
        """The mean over each line's rows [B, size], row 0 left out; zeros for a line that holds nothing else.

        Equals the masked mean of `forward`, but sums inside the lookup: [B, H, D] is never made.
        """
        there_BH = (rows_BH > 0).to(self.dtype)
        weight_BH = there_BH / there_BH.sum(-1, keepdim=True).clamp(min=1)
        return torch.cat([self._mean(key, rows_BH, weight_BH) for key in self.names], dim=-1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _embed(self, key: str, row: torch.Tensor) -> torch.Tensor:
        value, embedding = self.values(key, row), self.embeddings[_attribute(key)]
        match key.split(".", 1):
            case "multivalued", _:
                shape, weight = value.shape, self._value_weights(value)
                bags = embedding_bag(value.flatten(0, -2), self._vectors(key), per_sample_weights=weight.flatten(0, -2), mode="sum")
                return bags.unflatten(0, shape[:-1])
            case "categorical", name:
                return embedding(self._hide(name, value))
            case "vectors", _:
                return embedding(value)
            case _:
                return embedding(value.unsqueeze(-1))

    def _mean(self, key: str, rows_BH: torch.Tensor, weight_BH: torch.Tensor) -> torch.Tensor:
        value, embedding = self.values(key, rows_BH), self.embeddings[_attribute(key)]
        match key.split(".", 1):
            case "multivalued", _:
                weight = self._value_weights(value) * weight_BH.unsqueeze(-1)
                return embedding_bag(value.flatten(1), self._vectors(key), per_sample_weights=weight.flatten(1), mode="sum")
            case "categorical", name:
                return embedding_bag(self._hide(name, value), self._vectors(key), per_sample_weights=weight_BH, mode="sum")
            case "vectors", _:
                return embedding(torch.einsum("bh,bhd->bd", weight_BH, value))
            case _:
                return embedding((weight_BH * value).sum(-1, keepdim=True))

    def _vectors(self, key: str) -> torch.Tensor:
        """The vector of each value of a field with a vocabulary."""
        return self.embeddings[_attribute(key)].get_parameter("weight")

    def _value_weights(self, value: torch.Tensor) -> torch.Tensor:
        """What each value counts in the mean of its row: 0 for padding."""
        there = (value > 0).to(self.dtype)
        return there / there.sum(-1, keepdim=True).clamp(min=1)

    def _hide(self, name: str, value: torch.Tensor) -> torch.Tensor:
        if name == self.hidden_ids and self.training and self.id_dropout:
            return value.masked_fill(torch.rand(value.shape, device=value.device) < self.id_dropout, 0)
        return value


class RequestMLP(nn.Module):
    """An MLP over concat(request, candidate) whose first layer does the request's part once and broadcasts it over N candidates."""

    def __init__(self, request_size: int, candidate_size: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        self.request = nn.Linear(request_size, hidden[0])
        self.candidate = nn.Linear(candidate_size, hidden[0], bias=False)
        self.rest = nn.Sequential(
            *[layer for before, after in pairwise(hidden) for layer in (nn.ReLU(), nn.Dropout(dropout), nn.Linear(before, after))],
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden[-1], 1),
        )

    def forward(self, request_BR: torch.Tensor, candidate_BNC: torch.Tensor) -> torch.Tensor:
        """To logits [B, N]."""
        return self.rest(self.request(request_BR)[:, None] + self.candidate(candidate_BNC)).squeeze(-1)


def value_counts(values_BX: torch.Tensor, size: int) -> torch.Tensor:
    """How often each value below `size` stands in a row, as float32 [B, size]; value 0 is not counted."""
    counts_BK = torch.zeros(values_BX.shape[0], size, device=values_BX.device)
    counts_BK.scatter_add_(1, values_BX, (values_BX > 0).float())
    return counts_BK


def _attribute(key: str) -> str:
    """A field's key as a name that torch takes for a buffer or module."""
    return key.replace(".", "__")
