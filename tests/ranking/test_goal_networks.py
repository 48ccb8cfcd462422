"""Networks of several goals against plain loops."""

import numpy as np
import pytest
import torch
from torch import nn

from rayrec.config import GoalNetwork
from rayrec.ranking.goal_networks import KINDS, PLE, Experts, Level, MMoE
from tests.ranking.impressions import linear, relu, softmax

ROWS, SIZE, GOALS, EXPERT = 3, 4, 2, 5
Vector = list[float]


def network(kind: str, **values: int) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind](GoalNetwork.model_validate({"kind": kind, "expert_size": EXPERT} | values), SIZE, GOALS)


def experts_of(experts: Experts, vector: Vector) -> list[Vector]:
    return np.reshape(relu(linear(experts.layer, vector)), (-1, EXPERT)).tolist()


def mixed(weights: Vector, experts: list[Vector]) -> Vector:
    return [sum(weight * expert[place] for weight, expert in zip(weights, experts, strict=True)) for place in range(EXPERT)]


def level_of(level: Level, inputs: list[Vector]) -> list[Vector]:
    own = [experts_of(each, vector) for each, vector in zip(level.own, inputs, strict=False)]  # type: ignore[arg-type]
    shared = experts_of(level.shared, inputs[-1])
    found = [
        mixed(softmax(linear(gate, vector)), mine + shared)  # type: ignore[arg-type]
        for gate, vector, mine in zip(level.gates, inputs, own, strict=False)
    ]
    if level.shared_gate is not None:
        found.append(mixed(softmax(linear(level.shared_gate, inputs[-1])), [*own[0], *own[1], *shared]))
    return found


def test_mmoe_mixes_shared_experts_by_a_gate_of_each_goal() -> None:
    model = network("mmoe", experts=3)
    assert isinstance(model, MMoE)
    hidden = torch.randn(ROWS, SIZE)
    for row, vector in enumerate(hidden.tolist()):
        experts, gates = experts_of(model.experts, vector), np.reshape(linear(model.gates, vector), (GOALS, 3))
        for goal, found in enumerate(model(hidden)):
            assert found[row].tolist() == pytest.approx(mixed(softmax(gates[goal].tolist()), experts), abs=1e-5)


@pytest.mark.parametrize("levels", [1, 2])
def test_ple_has_experts_of_each_goal_in_levels(levels: int) -> None:
    model = network("ple", experts=2, own_experts=3, levels=levels)
    assert isinstance(model, PLE)
    hidden = torch.randn(ROWS, SIZE)
    for row, vector in enumerate(hidden.tolist()):
        expected = [vector] * (GOALS + 1)
        for level in model.levels:
            assert isinstance(level, Level)
            expected = level_of(level, expected)
        assert len(expected) == GOALS
        for goal, found in enumerate(model(hidden)):
            assert found[row].tolist() == pytest.approx(expected[goal], abs=1e-5)


def test_no_gate_of_ple_sees_the_experts_of_another_goal() -> None:
    model = network("ple", levels=1)
    assert isinstance(model, PLE)
    before = model(hidden := torch.randn(ROWS, SIZE))
    for parameter in model.levels[0].own[0].parameters():  # type: ignore[union-attr, index]
        nn.init.normal_(parameter)
    after = model(hidden)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_a_shared_bottom_gives_all_goals_the_same() -> None:
    found = network("shared_bottom")(torch.randn(ROWS, SIZE))
    assert len(found) == GOALS
    assert torch.equal(*found)
