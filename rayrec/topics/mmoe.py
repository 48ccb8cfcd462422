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


def task_loss(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy summed over the tasks; a tag task's target is spread evenly over a video's tags (Mahajan et al., 2018).

    With a binary cross-entropy for each tag the thousands of tags that a video lacks would outweigh every class. Each task's
    logits take part even in a batch without labels: DDP waits for a gradient of every parameter.
    """
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for name, scores in logits.items():
        if name == "tags":
            tags = labels[name].sum(-1)
            each = -(log_softmax(scores, -1) * labels[name]).sum(-1) / tags.clamp(min=1)
            total = total + each.sum() / (tags > 0).sum().clamp(min=1)
        else:
            known = (labels[name] >= 0).sum().clamp(min=1)
            total = total + cross_entropy(scores, labels[name], ignore_index=-1, reduction="sum") / known
    return total
