"""The encoders f_C and f_T of Pu et al., "Multimodal Topic Learning for Video Recommendation": picture and title as vectors.

f_C reads extracted vectors through an MLP, or the cover's pixels through a torchvision network. f_T is a bag of hashed words and
trigrams, a small transformer that starts from random weights, or a pretrained transformer. All of them are trained end to end on
the tasks of `mmoe.py`.
Shapes: B videos, D = encoder_size, L subwords, W = a transformer's width, Z = the width of z.
"""

import torch
from torch import nn

from rayrec.config import Topics
from rayrec.topics.contents import Batch
from rayrec.topics.packed import Slots, encoded
from rayrec.topics.titles import MAX_SUBWORDS

# So that a small catalog is not memorised: without dropout z separates its videos by whatever is peculiar to each.
DROPOUT = 0.3
WIDTH, LAYERS, HEADS = 128, 1, 4  # of the small transformer


class TitleBag(nn.Module):
    """The mean of the embeddings of a title's hashed words and trigrams, and a linear layer."""

    def __init__(self, vocabulary: int, size: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(vocabulary, size, mode="mean", padding_idx=0)
        nn.init.normal_(self.bag.weight, std=0.1)
        self.out = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(size, size))

    def forward(self, titles_BL: torch.Tensor) -> torch.Tensor:
        return self.out(self.bag(with_gaps(titles_BL) if self.training else titles_BL))


class TitleTransformer(nn.Module):
    """Pre-norm self-attention over a title's subwords and their positions, the mean over the subwords, and a linear layer."""

    def __init__(self, vocabulary: int, size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH, padding_idx=0)
        self.places = nn.Embedding(MAX_SUBWORDS, WIDTH)  # position embeddings
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.places.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, DROPOUT, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.out = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(WIDTH, size))

    def forward(self, titles_BL: torch.Tensor) -> torch.Tensor:
        if self.training:
            titles_BL = with_gaps(titles_BL)
        slots = Slots(titles_BL > 0)
        words_T = titles_BL[slots.title_T, slots.place_T]
        states_TW = encoded(self.layers, self.words(words_T) + self.places(slots.place_T), slots)
        return self.out(slots.mean(states_TW))


class PretrainedTitles(nn.Module):
    """A Hugging Face transformer, and a linear layer on the mean of its last hidden states."""

    def __init__(self, body: nn.Module, width: int, size: int, padding: int) -> None:
        super().__init__()
        self.body, self.padding = body, padding
        pooler = getattr(body, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)  # it is not used, so it needs no gradients
        self.out = nn.Linear(width, size)

    def forward(self, titles_BL: torch.Tensor) -> torch.Tensor:
        mask_BL = titles_BL != self.padding
        states_BLW = self.body(input_ids=titles_BL, attention_mask=mask_BL).last_hidden_state
        return self.out(mean_over(states_BLW, mask_BL))


def with_gaps(titles_BL: torch.Tensor) -> torch.Tensor:
    """The titles with a random share of their tokens removed, so that no token becomes indispensable (Iyyer et al., 2015)."""
    return titles_BL * (torch.rand(titles_BL.shape, device=titles_BL.device) >= DROPOUT)


def mean_over(states_BLW: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """The mean of the states at the positions of the mask [B, W]; zeros for a row without any."""
    weights_BL1 = mask_BL.unsqueeze(-1).to(states_BLW.dtype)
    return (states_BLW * weights_BL1).sum(1) / weights_BL1.sum(1).clamp(min=1)


class CoverEncoder(nn.Module):
    """A network from pixels to pooled features, and a linear layer."""

    def __init__(self, body: nn.Module, width: int, size: int) -> None:
        super().__init__()
        self.body = body
        self.out = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(width, size))

    def forward(self, covers: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(covers))


class Encoders(nn.Module):
    """z = concat(f_C, f_T), without the parts that the catalog lacks."""

    def __init__(self, vectors: nn.Module | None, covers: nn.Module | None, titles: nn.Module | None, size: int) -> None:
        super().__init__()
        self.vectors, self.covers, self.titles = vectors, covers, titles
        self.size = size * sum(part is not None for part in (vectors, covers, titles))

    def forward(self, batch: Batch) -> torch.Tensor:
        """z, float32 [B, Z]."""
        parts = [
            part(inputs)
            for part, inputs in ((self.vectors, batch.vectors), (self.covers, batch.covers), (self.titles, batch.titles))
            if part is not None
        ]
        return torch.cat(parts, dim=-1).float()


def vector_encoder(width: int, settings: Topics) -> nn.Module:
    """The MLP that reads extracted vectors of `width` numbers."""
    return nn.Sequential(
        nn.Linear(width, settings.encoder_size), nn.ReLU(), nn.Linear(settings.encoder_size, settings.encoder_size)
    )
