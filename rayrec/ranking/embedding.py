"""Embeds fields as vectors: the part that all models share.

An item is embedded once in a batch, however often it occurs among the candidates and in the histories: `unique_rows` finds the
items, the fields of each are looked up and embedded, and everything else gathers from that small matrix. The vectors of all
vocabularies of a table are one parameter with sparse gradients, so that a step costs the same whatever the vocabularies' sizes.

Shapes: B requests, N candidates, H history, U distinct items of a batch, F fields, W values of all fields of a row, M modalities,
D embedding, E all fields of an item concatenated, R all fields of a request (user and context) concatenated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rayrec.config import Ranker
from rayrec.data.batches import Batch
from rayrec.data.fields import FieldTable, Tables
from rayrec.ranking.frozen import FrozenItems
from rayrec.ranking.gathering import Rows, field_sums, gather, unique_rows, weighted_sum

INITIAL_DEVIATION = 0.05  # of embeddings; `benchmarks/initial_values.py` compares others


class EmbeddingTable(nn.Module):
    """The vocabularies of several fields as one matrix [number of all values, dim + 1]; its last column holds the values' weights.

    `values` are the rows of a field table, int32 [rows, W]: the values of all fields, concatenated, each field's counted from its
    offset.
    """

    sparse = True  # tells `LazyAdam` and `exchange_gradients` that the gradients are sparse
    floor_W: torch.Tensor
    start_F: torch.Tensor
    member_WF: torch.Tensor

    def __init__(self, columns: dict[str, torch.Tensor], sizes: dict[str, int], dim: int) -> None:
        super().__init__()
        self.names, self.dim = list(columns), dim
        widths = [column.shape[1] if column.ndim == 2 else 1 for column in columns.values()]
        self.has_lists = any(column.ndim == 2 for column in columns.values())
        offsets = torch.tensor([0, *(sizes[name] for name in self.names)]).cumsum(0)
        self.offset = dict(zip(self.names, offsets.tolist(), strict=False))
        self.sizes = {name: sizes[name] for name in self.names}
        starts = torch.tensor([0, *widths]).cumsum(0)
        self.columns = dict(zip(self.names, pairwise(starts.tolist()), strict=True))  # name -> (first, behind the last) column of W
        self.values = Rows(self._values(columns))
        # A value counts when it is above its field's padding. All values of a categorical field count.
        floor = [offset if column.ndim == 2 else -1 for column, offset in zip(columns.values(), offsets.tolist(), strict=False)]
        self.register_buffer("floor_W", torch.tensor(floor).repeat_interleave(torch.tensor(widths)).int(), persistent=False)
        self.register_buffer("start_F", starts[:-1].int(), persistent=False)
        self.register_buffer("member_WF", torch.eye(len(widths)).repeat_interleave(torch.tensor(widths), 0), persistent=False)
        vectors = _initial_vectors(int(offsets[-1]), dim)
        vectors[offsets[:-1]] = 0  # Unknown values may first occur after training: random vectors of theirs would add noise.
        self.weight = nn.Parameter(vectors)

    def forward(self, rows_U: torch.Tensor, hidden: str = "", dropout: float = 0.0) -> torch.Tensor:
        """Vectors and weights [U, F, dim + 1] of rows. While training, a share `dropout` of the rows has field `hidden` unknown."""
        values_UW = self.values[rows_U]
        if hidden in self.offset and dropout and self.training:
            unknown_U = torch.rand(len(values_UW), device=values_UW.device) < dropout
            values_UW[:, self.columns[hidden][0]].masked_fill_(unknown_U, self.offset[hidden])
        return self.embed(values_UW)

    def embed(self, values_UW: torch.Tensor) -> torch.Tensor:
        """Vectors and weights [U, F, dim + 1] of values that need not come from the table."""
        if not self.has_lists:
            return functional.embedding(values_UW, self.weight, sparse=True)
        mask_UW = (values_UW > self.floor_W).to(self.weight.dtype)
        share_UW = mask_UW / ((mask_UW @ self.member_WF).clamp(min=1) @ self.member_WF.T)
        rows, width = values_UW.shape
        starts = torch.arange(0, rows * width, width, dtype=torch.int32, device=values_UW.device)[:, None] + self.start_F
        bags = field_sums(self.weight, values_UW.flatten(), share_UW.flatten(), starts.flatten())
        return bags.view(rows, len(self.names), self.dim + 1)

    def values_of(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """The values of a multi-valued field, 0 for padding, in rows [...]: int64 [..., values]."""
        return self.values.of_columns(slice(*self.columns[name]), rows).long() - self.offset[name]

    def places_in(self, grown: "EmbeddingTable") -> torch.Tensor:
        """Where the values of this table are in another one, whose vocabularies begin with the same words: int64 [all values]."""
        return torch.cat([torch.arange(size) + grown.offset[name] for name, size in self.sizes.items()])

    def append(self, columns: dict[str, torch.Tensor]) -> None:
        """More rows. Of a multi-valued field with more values than any row had so far, the last ones are left out."""
        self.values.append(self._values(columns))

    def _values(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        wide = []
        for name in self.names:
            column, width = columns[name], self.columns[name][1] - self.columns[name][0]
            column = column[:, :width] if column.ndim == 2 else column[:, None]
            wide.append(functional.pad(column, (0, width - column.shape[1])) + self.offset[name])
        return torch.cat(wide, 1).to(torch.int32)


class FieldEmbedding(nn.Module):
    """Looks up rows of a `FieldTable` and embeds each field. The table is kept beside the weights, on the same device.

    A categorical value has one vector, a multi-valued field the mean of its values' vectors, a number a multiple of its field's
    vector (as in Hasama & Li, see docs/papers.md), and a modality vector a learned projection. Value 0 (unknown, padding) of a
    multi-valued field counts for nothing; value 0 of a categorical field has its own vector. Each field also has a weight, which
    linear models, FM and the wide part use. While training, the categorical field `ids` is unknown in a share `id_dropout` of the
    rows, so that the rest of the model learns to do without it.
    """

    def __init__(self, table: FieldTable, dim: int, topic_dim: int, ids: str, id_dropout: float, vectors: list[str]) -> None:
        super().__init__()
        self.ids, self.id_dropout, self.dim = ids, id_dropout, dim
        columns = _columns(table)
        apart = [name for name in columns if name == "topics" and topic_dim != dim]
        groups = [([name for name in columns if name not in apart], dim), (apart, topic_dim)]
        lookups = [EmbeddingTable({name: columns[name] for name in names}, table.sizes, size) for names, size in groups if names]
        self.lookups = nn.ModuleList(lookups)
        self.table_of = {name: lookup for lookup in lookups for name in lookup.names}
        numeric = sorted(table.numeric)
        self.numeric = Rows(_numbers(table)) if numeric else None  # float32 [rows, numeric fields]
        if numeric:
            self.number_vectors = nn.Parameter(_initial_vectors(len(numeric), dim))
        self.projections = nn.ModuleDict({name: Projection(table.vectors[name], dim) for name in vectors})
        self.names = [name for names, _ in groups for name in names] + numeric + vectors
        self.size = sum(len(names) * size for names, size in groups) + (len(numeric) + len(vectors)) * dim

    def forward(self, rows_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The vectors of all fields of each row, concatenated [U, size], and the sum of their weights [U]."""
        parts = [lookup(rows_U, self.ids, self.id_dropout) for lookup in self.lookups]
        if self.numeric is not None:
            parts.append(self.numeric[rows_U].unsqueeze(-1) * self.number_vectors)
        parts += [projection(rows_U)[:, None] for projection in self.projections.values()]
        return concatenate_fields(parts)

    def append(self, table: FieldTable) -> None:
        """More rows, without the row for "unknown" that leads the table."""
        for lookup in self.lookups:
            assert isinstance(lookup, EmbeddingTable)
            lookup.append({name: column[1:] for name, column in _columns(table).items()})
        if self.numeric is not None:
            self.numeric.append(_numbers(table)[1:])
        for name, projection in self.projections.items():
            assert isinstance(projection, Projection)
            projection.vectors.append(table.vectors[name][1:])

    @property
    def rows(self) -> int:
        return len(self.lookups[0].values)  # type: ignore[arg-type]


class Projection(nn.Module):
    """The vectors of a modality and a learned projection of them to [dim + 1]; a video without the modality has zeros."""

    def __init__(self, vectors: torch.Tensor, dim: int) -> None:
        super().__init__()
        self.vectors = Rows(vectors)
        self.linear = nn.Linear(vectors.shape[1], dim + 1, bias=False)
        self.linear.weight = nn.Parameter((_initial_vectors(vectors.shape[1], dim).T / vectors.shape[1] ** 0.5).contiguous())

    def forward(self, rows_U: torch.Tensor) -> torch.Tensor:
        return self.linear(self.vectors[rows_U])


class Fusion(nn.Module):
    """Fuses several modalities into one content vector by attention over those that the video has.

    Hasama & Li, "Attention-based Multimodal Feature Representation Model for Micro-video Recommendation". `attention` has the
    scores w^T tanh(W m) of the modalities m alone. `user_attention` has the scores q^T m / sqrt(D) with a query q from the fields
    of the request, so that each user attends to other aspects of a video. A video without any modality has zeros.
    """

    def __init__(self, items: FieldTable, names: list[str], dim: int, request_size: int, guided: bool) -> None:
        super().__init__()
        self.names = names
        self.projections = nn.ModuleList(Projection(items.vectors[name], dim) for name in names)
        self.query = nn.Linear(request_size, dim) if guided else None
        self.score = None if guided else nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def project(self, rows_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The projected modalities [U, M, dim + 1] and the mask of those that each video has, bool [U, M]."""
        masks = [(projection.vectors[rows_U] != 0).any(-1) for projection in self.projections]  # type: ignore[index]
        return torch.stack([projection(rows_U) for projection in self.projections], 1), torch.stack(masks, 1)

    def forward(self, modalities: torch.Tensor, mask: torch.Tensor, query: torch.Tensor | None) -> torch.Tensor:
        """The fused modalities [..., M, dim + 1] with mask [..., M]: [..., dim + 1]. user_attention has a query [..., dim]."""
        vectors = modalities[..., :-1]
        if query is None:
            assert self.score is not None
            scores = self.score(vectors).squeeze(-1)
        else:
            scores = (vectors * query.unsqueeze(-2)).sum(-1) * vectors.shape[-1] ** -0.5
        shares = masked_softmax(scores, mask)
        return (shares.unsqueeze(-1) * modalities).sum(-2)


class Inputs(nn.Module):
    """Embeds all fields of a batch.

    Vectors of topics have `topic_dim` numbers, all others `dim`; FM and similar models need both to be equal. `request_size` and
    `item_size` are R and E, and `request_fields` and `item_fields` name the fields in the order of their vectors.
    """

    def __init__(self, settings: Ranker, tables: Tables, dim: int, topic_dim: int | None = None) -> None:
        super().__init__()
        self.dim, topic_dim = dim, dim if topic_dim is None else topic_dim
        modalities = sorted(tables.items.vectors)
        fused = modalities if settings.fusion != "concat" and len(modalities) > 1 else []
        self.users = FieldEmbedding(tables.users, dim, topic_dim, "user_id", settings.id_dropout, sorted(tables.users.vectors))
        concatenated = [name for name in modalities if name not in fused]
        self.items = FieldEmbedding(tables.items, dim, topic_dim, "video_id", settings.id_dropout, concatenated)
        one = torch.zeros(1, dtype=torch.int64)
        self.context = EmbeddingTable(dict.fromkeys(tables.context, one), tables.context, dim) if tables.context else None
        self.request_fields = [*self.users.names, *tables.context]
        self.request_size = self.users.size + len(tables.context) * dim
        guided = settings.fusion == "user_attention"
        self.fusion = Fusion(tables.items, fused, dim, self.request_size, guided) if fused else None
        self.item_fields = [*self.items.names, *(["content"] if fused else [])]
        self.item_size = self.items.size + (dim if fused else 0)
        self.frozen: FrozenItems | None = None

    def freeze(self, max_bytes: float) -> None:
        """Computes what depends on an item alone once for all items, for a model whose weights no longer change.

        It does nothing where each user attends to other modalities of an item, so that its vector is not its own. Raises
        `TooLargeError`.
        """
        if self.fusion is None or self.fusion.query is None:
            rows_U = torch.arange(self.items.rows, device=next(self.parameters()).device)
            self.frozen = FrozenItems(self.item_vectors, rows_U, max_bytes)

    def append_items(self, table: FieldTable) -> None:
        """More items behind the others, without the row for "unknown" that leads the table."""
        self.items.append(table)
        if self.fusion is not None:
            for name, projection in zip(self.fusion.names, self.fusion.projections, strict=True):
                assert isinstance(projection, Projection)
                projection.vectors.append(table.vectors[name][1:])
        if self.frozen is not None:
            known = self.frozen.vectors_UE
            self.frozen.append(torch.arange(len(known), self.items.rows, device=known.device))

    def forward(self, batch: Batch) -> "Embedded":
        request_BR, request_weight_B = self._request(batch)
        mask_BH, frozen = batch.history > 0, self.frozen
        if frozen is not None:
            items = frozen.vectors_UE, frozen.weights_U, batch.candidates, batch.history
            return Embedded(self.dim, request_BR, request_weight_B, *items, mask_BH, None, frozen)
        rows_BX = torch.cat([batch.candidates, batch.history], 1)
        rows_U, index_BX = unique_rows(rows_BX, self.items.rows)
        items_UE, weight_U = self.item_vectors(rows_U)
        content = None
        if self.fusion is not None and self.fusion.query is not None:
            content = Content(self.fusion, *self.fusion.project(rows_U), self.fusion.query(request_BR))
        candidates = batch.candidates.shape[1]
        index_BN, index_BH = index_BX[:, :candidates], index_BX[:, candidates:]
        return Embedded(self.dim, request_BR, request_weight_B, items_UE, weight_U, index_BN, index_BH, mask_BH, content)

    def item_vectors(self, rows_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What depends on an item alone: the vectors of its fields [U, E] (less what a user attends to), and their weights [U]."""
        items_UE, weight_U = self.items(rows_U)
        if self.fusion is None or self.fusion.query is not None:
            return items_UE, weight_U
        vectors_UD, weights_U = concatenate_fields([self.fusion(*self.fusion.project(rows_U), None)[:, None]])
        return torch.cat([items_UE, vectors_UD], 1), weight_U + weights_U

    def _request(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        vectors, weights = self.users(batch.user)
        if self.context is None:
            return vectors, weights
        offsets = batch.context.new_tensor(list(self.context.offset.values()))
        more, more_weights = concatenate_fields([self.context.embed((batch.context + offsets).int())])
        return torch.cat([vectors, more], 1), weights + more_weights


@dataclass
class Content:
    """What `user_attention` needs to fuse the modalities of an item for each user."""

    fusion: Fusion
    modalities: torch.Tensor  # [U, M, D + 1]
    mask: torch.Tensor  # bool [U, M], which modalities a video has
    query_BD: torch.Tensor

    def of(self, index_BX: torch.Tensor) -> torch.Tensor:
        """The content of items, and its weight: [B, X, D + 1]."""
        return self.fusion(gather(self.modalities, index_BX), self.mask[index_BX], self.query_BD[:, None])


@dataclass
class Embedded:
    """The fields of a batch as vectors. The properties are computed when a model asks for them."""

    dim: int  # D
    request_BR: torch.Tensor
    request_weight_B: torch.Tensor  # the sum of the fields' weights
    items_UE: torch.Tensor
    item_weight_U: torch.Tensor
    index_BN: torch.Tensor  # of each candidate, in U
    index_BH: torch.Tensor  # of each click, in U
    mask_BH: torch.Tensor  # bool: not padding
    content: Content | None
    frozen: FrozenItems | None = None  # U are then all items

    def of_items(self, layer: nn.Module, compute: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        """What `layer`, or `compute` by its weights, makes of the items' vectors [U, ...]; of frozen items it is known already."""
        return (compute or layer)(self.items_UE) if self.frozen is None else self.frozen.output(layer, compute or layer)

    def fields(self, vectors: torch.Tensor) -> torch.Tensor:
        """Concatenated fields [..., F * D] as separate ones [..., F, D], for models whose fields are all of one size."""
        return vectors.unflatten(-1, (-1, self.dim))

    @cached_property
    def candidates_BNE(self) -> torch.Tensor:
        vectors = gather(self.items_UE, self.index_BN)
        return vectors if self.content is None else torch.cat([vectors, self.content.of(self.index_BN)[..., :-1]], -1)

    @cached_property
    def clicked_BHE(self) -> torch.Tensor:
        """The vectors of the clicked videos. Those of padding are arbitrary; `mask_BH` leaves them out."""
        vectors = gather(self.items_UE, self.index_BH)
        return vectors if self.content is None else torch.cat([vectors, self.content.of(self.index_BH)[..., :-1]], -1)

    @cached_property
    def mean_clicked_BE(self) -> torch.Tensor:
        """The mean of the clicked videos' vectors, zeros without clicks; computed without a tensor [B, H, E]."""
        share_BH = self.mask_BH / self.mask_BH.sum(1, keepdim=True).clamp(min=1)
        mean = weighted_sum(self.items_UE, self.index_BH, share_BH)
        if self.content is None:
            return mean
        content_BD = torch.einsum("bh,bhd->bd", share_BH, self.content.of(self.index_BH)[..., :-1])
        return torch.cat([mean, content_BD], 1)

    @cached_property
    def linear_BN(self) -> torch.Tensor:
        """The sum of the weights of all fields of request and candidate."""
        weight_BN = self.request_weight_B[:, None] + gather(self.item_weight_U, self.index_BN)
        return weight_BN if self.content is None else weight_BN + self.content.of(self.index_BN)[..., -1]


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The softmax over the last dimension among the unmasked entries; zeros where all are masked out."""
    return torch.softmax(scores.masked_fill(~mask, -1e4), -1) * mask


def concatenate_fields(parts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of all parts [U, F, dim + 1], concatenated [U, sum of F * dim], and the sum of all weights [U]."""
    vectors, weights = _ConcatenatedFields.apply(*parts)
    return vectors, weights


class _ConcatenatedFields(torch.autograd.Function):
    """Writes each gradient once; those of slices are zeros that are filled and added up."""

    @staticmethod
    def forward(ctx: Any, *parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.shapes = [part.shape for part in parts]
        vectors = torch.cat([part[..., :-1].flatten(1) for part in parts], 1)
        return vectors, torch.cat([part[..., -1] for part in parts], 1).sum(1)

    @staticmethod
    def backward(ctx: Any, of_vectors: torch.Tensor, of_weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = [fields * (size - 1) for _, fields, size in ctx.shapes]
        gradients = tuple(of_vectors.new_empty(shape) for shape in ctx.shapes)
        for gradient, of_part in zip(gradients, of_vectors.split(sizes, 1), strict=True):
            gradient[..., :-1] = of_part.unflatten(1, (gradient.shape[1], -1))
            gradient[..., -1] = of_weights[:, None]
        return gradients


def _columns(table: FieldTable) -> dict[str, torch.Tensor]:
    """The columns of values, the categorical ones first."""
    return {name: tensor for kind in (table.categorical, table.multivalued) for name, tensor in sorted(kind.items())}


def _numbers(table: FieldTable) -> torch.Tensor:
    """The numeric columns side by side: float32 [rows, numeric fields]."""
    return torch.stack([table.numeric[name] for name in sorted(table.numeric)], 1)


def _initial_vectors(count: int, dim: int) -> torch.Tensor:
    """Small random vectors with weights of zero: [count, dim + 1]."""
    vectors = torch.zeros(count, dim + 1)
    nn.init.normal_(vectors[:, :-1], std=INITIAL_DEVIATION)
    return vectors
