"""What several goals read of a model's last hidden layer: a shared bottom, experts with gates, or progressively layered experts.

- `shared_bottom`: one layer that all goals read (Caruana, "Multitask Learning", 1997).
- `mmoe`: experts that all goals share; a softmax gate of each goal mixes them. Ma et al., "Modeling Task Relationships in
  Multi-task Learning with Multi-gate Mixture-of-Experts" (KDD 2018), eq. 6-7.
- `ple`: each goal also has experts of its own, which no other goal's gate sees. Tang et al., "Progressive Layered Extraction (PLE)"
  (RecSys 2020), eq. 1-6. With several levels, each expert of a higher level reads what its own gate mixed of the level below; the
  gate of the shared experts sees all experts.

An expert is a linear layer with ReLU. Shapes: [...] rows, X what is read, G goals, E experts, S size of an expert.
"""

import torch
from torch import nn

from rayrec.config import GoalNetwork
from rayrec.ranking.layers import Linear


class SharedBottom(nn.Module):
    """One layer for all goals."""

    def __init__(self, settings: GoalNetwork, size: int, goals: int) -> None:
        super().__init__()
        self.goals = goals
        self.layer = Linear(size, settings.expert_size)

    def forward(self, hidden_X: torch.Tensor) -> list[torch.Tensor]:
        """What the tower of each goal reads: G times [..., S]."""
        return [torch.relu(self.layer(hidden_X))] * self.goals


class MMoE(nn.Module):
    """Experts for all goals, and a gate for each."""

    def __init__(self, settings: GoalNetwork, size: int, goals: int) -> None:
        super().__init__()
        self.experts = Experts(size, settings.experts, settings.expert_size)
        self.gates = Linear(size, goals * settings.experts)
        self.shape = goals, settings.experts

    def forward(self, hidden_X: torch.Tensor) -> list[torch.Tensor]:
        """What the tower of each goal reads: G times [..., S]."""
        weights_GE = self.gates(hidden_X).unflatten(-1, self.shape).softmax(-1)
        return list((weights_GE @ self.experts(hidden_X)).unbind(-2))


class PLE(nn.Module):
    """Experts of each goal and shared ones, in levels."""

    def __init__(self, settings: GoalNetwork, size: int, goals: int) -> None:
        super().__init__()
        sizes = [size] + [settings.expert_size] * (settings.levels - 1)
        levels = [Level(settings, each, goals, last=place == settings.levels - 1) for place, each in enumerate(sizes)]
        self.levels, self.goals = nn.ModuleList(levels), goals

    def forward(self, hidden_X: torch.Tensor) -> list[torch.Tensor]:
        """What the tower of each goal reads: G times [..., S]."""
        found = [hidden_X] * (self.goals + 1)
        for level in self.levels:
            found = level(found)
        return found


class Level(nn.Module):
    """One level of PLE: for each goal, and for the shared experts unless it is the last level, experts and a gate."""

    def __init__(self, settings: GoalNetwork, size: int, goals: int, last: bool) -> None:
        super().__init__()
        own, shared = settings.own_experts, settings.experts
        self.own = nn.ModuleList(Experts(size, own, settings.expert_size) for _ in range(goals))
        self.shared = Experts(size, shared, settings.expert_size)
        self.gates = nn.ModuleList(Linear(size, own + shared) for _ in range(goals))
        self.shared_gate = None if last else Linear(size, goals * own + shared)

    def forward(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The mixtures [..., S] of each goal and, unless it is the last level, of the shared experts; inputs likewise [..., X]."""
        *of_goals, of_shared = inputs
        own, shared = [experts(each) for experts, each in zip(self.own, of_goals, strict=True)], self.shared(of_shared)
        mixed = [
            mixture(gate(each), torch.cat([mine, shared], -2)) for gate, each, mine in zip(self.gates, of_goals, own, strict=True)
        ]
        if self.shared_gate is not None:
            mixed.append(mixture(self.shared_gate(of_shared), torch.cat([*own, shared], -2)))
        return mixed


class Experts(nn.Module):
    """Layers side by side."""

    def __init__(self, size: int, count: int, expert_size: int) -> None:
        super().__init__()
        self.layer, self.shape = Linear(size, count * expert_size), (count, expert_size)

    def forward(self, hidden_X: torch.Tensor) -> torch.Tensor:
        """The outputs [..., E, S]."""
        return torch.relu(self.layer(hidden_X)).unflatten(-1, self.shape)


def mixture(gate_E: torch.Tensor, experts_ES: torch.Tensor) -> torch.Tensor:
    """The experts [..., E, S] mixed by the softmax of a gate [..., E]: [..., S]."""
    return (gate_E.softmax(-1)[..., None, :] @ experts_ES).squeeze(-2)


KINDS: dict[str, type[SharedBottom | MMoE | PLE]] = {"shared_bottom": SharedBottom, "mmoe": MMoE, "ple": PLE}
