"""The multi-gate mixture of experts over z (MMoE; Ma et al., 2018), as Pu et al. use it, and its loss.

E experts read z. For each task, a softmax gate mixes their outputs and a tower predicts the label. The tasks are the primary class,
the secondary class and the tags. A task without labels is left out, and a video without a label adds nothing to that task's loss.
Shapes: B videos, Z = size of z, E experts, X = size of an expert's output.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from rayrec.config import Topics
from rayrec.topics.contents import Batch
from rayrec.topics.encoders import Encoders


class MMoE(nn.Module):
    """Encoders, experts, gates and towers."""

    def __init__(self, encoders: Encoders, tasks: dict[str, int], settings: Topics) -> None:
        super().__init__()
        self.encoders = encoders
        self.experts = nn.Linear(encoders.size, settings.experts * settings.expert_size)
        self.expert_shape = (settings.experts, settings.expert_size)
        self.gates = nn.ModuleDict({name: nn.Linear(encoders.size, settings.experts) for name in tasks})
        self.towers = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(settings.expert_size, settings.expert_size), nn.ReLU(), nn.Linear(settings.expert_size, outputs)
                )
                for name, outputs in tasks.items()
            }
        )

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The logits of each task [B, outputs]."""
        z_BZ = self.encoders(batch)
        experts_BEX = torch.relu(self.experts(z_BZ)).unflatten(-1, self.expert_shape)
        logits = {}
        for name, gate in self.gates.items():
            weight_BE = gate(z_BZ).softmax(-1)
            logits[name] = self.towers[name](torch.einsum("be,bex->bx", weight_BE, experts_BEX))
        return logits


def task_loss(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], labelled: dict[str, int]) -> torch.Tensor:
    """Cross-entropy summed over the tasks: for each the sum over the videos at hand, divided by the number in `labelled`.

    That number is of the labelled videos in the whole batch, of which these rows may be a worker's share: the losses of all shares
    add up to that of the batch. The target of the tags is spread evenly over a video's tags (Mahajan et al., 2018): with a binary
    cross-entropy for each tag the thousands of tags that a video lacks would outweigh every class. The logits of a task take part
    also in a batch without labels for it, so that each parameter always has a gradient.
    """
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for name, scores in logits.items():
        if name == "tags":
            tags = labels[name].sum(-1)
            loss = (-(log_softmax(scores, -1) * labels[name]).sum(-1) / tags.clamp(min=1)).sum()
        else:
            loss = cross_entropy(scores, labels[name], ignore_index=-1, reduction="sum")
        total = total + loss / max(labelled[name], 1)
    return total
