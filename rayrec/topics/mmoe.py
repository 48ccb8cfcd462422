"""The joint representation z: cover and title encoders trained through a multi-gate mixture of experts (SOURCES C.1; Ma, 2018).

z = concat(f_C(cover), f_T(title)). E experts read z; for each task a softmax gate mixes them and a tower predicts the label. The
tasks are the primary class, the secondary class and the tags; a task without labels is left out, and a video without a label adds
nothing to that task's loss. Shapes: B videos, Z = size of z, E experts, X = size of an expert's output.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from rayrec.config import Topics
from rayrec.topics.text import BUCKETS

# Against learning a small catalog by heart: without them z tells its videos apart by whatever is peculiar to each.
TITLE_DROPOUT, WEIGHT_DECAY = 0.3, 0.1


@dataclass(frozen=True)
class Contents:
    """What the encoders read, for all videos. A modality that no video has is None."""

    cover: torch.Tensor | None  # float32 [videos, size], centred, zeros where a video has none
    title_tokens: torch.Tensor | None  # int64, of all titles one after the other
    title_starts: torch.Tensor | None  # int64 [videos]


@dataclass(frozen=True)
class Labels:
    """What the tasks predict. Class numbers are int64 [videos] with -1 for none; tags are float32 [videos, tags]."""

    classes: dict[str, torch.Tensor]
    tags: torch.Tensor | None


class TitleEncoder(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(BUCKETS, size, mode="mean")
        self.out = nn.Sequential(nn.Dropout(TITLE_DROPOUT), nn.Linear(size, size))

    def forward(self, tokens: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        return self.out(self.bag(tokens, starts))


class MMoE(nn.Module):
    """Encoders, experts, gates and towers."""

    def __init__(self, contents: Contents, labels: Labels, settings: Topics) -> None:
        super().__init__()
        size = settings.encoder_size
        self.cover = (
            nn.Sequential(nn.Linear(contents.cover.shape[1], size), nn.ReLU(), nn.Linear(size, size))
            if contents.cover is not None
            else None
        )
        self.title = TitleEncoder(size) if contents.title_starts is not None else None
        z_size = size * ((self.cover is not None) + (self.title is not None))
        tasks = {name: int(numbers.max()) + 1 for name, numbers in labels.classes.items()}
        if labels.tags is not None:
            tasks["tags"] = labels.tags.shape[1]
        self.experts = nn.Linear(z_size, settings.experts * settings.expert_size)
        self.expert_shape = (settings.experts, settings.expert_size)
        self.gates = nn.ModuleDict({name: nn.Linear(z_size, settings.experts) for name in tasks})
        self.towers = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(settings.expert_size, settings.expert_size), nn.ReLU(), nn.Linear(settings.expert_size, outputs)
                )
                for name, outputs in tasks.items()
            }
        )

    def encode(self, contents: Contents, rows: torch.Tensor) -> torch.Tensor:
        """z of the given videos [B, Z]."""
        parts = []
        if self.cover is not None:
            assert contents.cover is not None
            parts.append(self.cover(contents.cover[rows]))
        if self.title is not None:
            parts.append(self.title(*_titles_of(contents, rows)))
        return torch.cat(parts, dim=-1)

    def forward(self, contents: Contents, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits of each task [B, outputs]."""
        z_BZ = self.encode(contents, rows)
        experts_BEX = torch.relu(self.experts(z_BZ)).unflatten(-1, self.expert_shape)
        logits = {}
        for name, gate in self.gates.items():
            weight_BE = gate(z_BZ).softmax(-1)
            logits[name] = self.towers[name](torch.einsum("be,bex->bx", weight_BE, experts_BEX))
        return logits


def task_loss(logits: dict[str, torch.Tensor], labels: Labels, rows: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the tasks; for the tags it is the binary one, summed over a video's tags."""
    total = torch.zeros(())
    for name, numbers in labels.classes.items():
        known = numbers[rows] >= 0
        if known.any():
            total = total + cross_entropy(logits[name][known], numbers[rows][known])
    if labels.tags is not None:
        total = total + binary_cross_entropy_with_logits(logits["tags"], labels.tags[rows], reduction="none").sum(-1).mean()
    return total


def learn_representation(contents: Contents, labels: Labels, settings: Topics, seed: int) -> np.ndarray:
    """Train on all videos and return their z, float32 [videos, Z]. Without any label z is what the untrained encoders give."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MMoE(contents, labels, settings)
        count = len(contents.cover if contents.cover is not None else contents.title_starts)  # type: ignore[arg-type]
        if labels.classes or labels.tags is not None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
            for _ in range(settings.epochs):
                for rows in torch.randperm(count).split(settings.batch_size):
                    optimizer.zero_grad()
                    task_loss(model(contents, rows), labels, rows).backward()
                    optimizer.step()
        model.eval()
        with torch.inference_mode():
            return torch.cat([model.encode(contents, rows) for rows in torch.arange(count).split(4096)]).numpy()


def _titles_of(contents: Contents, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens and starts of some videos' titles, cut out of those of all."""
    tokens, starts = contents.title_tokens, contents.title_starts
    assert tokens is not None
    assert starts is not None
    ends = torch.cat([starts[1:], torch.tensor([len(tokens)])])
    lengths = ends[rows] - starts[rows]
    new_starts = lengths.cumsum(0) - lengths
    places = (
        torch.arange(int(lengths.sum()))
        - torch.repeat_interleave(new_starts, lengths)
        + torch.repeat_interleave(starts[rows], lengths)
    )
    return tokens[places], new_starts
