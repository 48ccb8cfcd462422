"""The mixture of experts and its loss, against sums written out."""

import torch
from torch.nn.functional import cross_entropy

from rayrec.topics.contents import Batch
from rayrec.topics.encoders import Encoders, vector_encoder
from rayrec.topics.mmoe import MMoE, task_loss
from tests.fixtures.topics import SMALL


def test_forward_is_the_gated_mixture() -> None:
    torch.manual_seed(0)
    model = MMoE(Encoders(vector_encoder(5, SMALL), None, None, 8), {"primary_class": 4, "tags": 6}, SMALL).eval()
    batch = Batch(torch.randn(2, 5))
    z, logits = model.encoders(batch), model(batch)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"primary_class": (2, 4), "tags": (2, 6)}
    for name in logits:
        weights = model.gates[name](z[1]).softmax(-1)
        experts = [torch.relu(model.experts(z[1])[e * 8 : (e + 1) * 8]) for e in range(3)]
        mixed = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
        torch.testing.assert_close(logits[name][1], model.towers[name](mixed))


def test_the_loss_is_the_sum_of_the_tasks_over_what_has_a_label() -> None:
    logits = {"primary_class": torch.tensor([[2.0, 0.0], [0.0, 5.0]]), "tags": torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 0.0]])}
    labels = {"primary_class": torch.tensor([0, -1]), "tags": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])}
    chances = logits["tags"][0].softmax(-1)
    expected = -torch.log_softmax(logits["primary_class"][0], -1)[0] - (chances[0].log() + chances[2].log()) / 2
    torch.testing.assert_close(task_loss(logits, labels, {"primary_class": 1, "tags": 1}), expected)
    torch.testing.assert_close(
        task_loss({"secondary_class": logits["primary_class"]}, {"secondary_class": torch.tensor([1, 0])}, {"secondary_class": 2}),
        cross_entropy(logits["primary_class"], torch.tensor([1, 0])),
    )


def test_a_batch_without_labels_still_has_a_gradient_for_everything() -> None:
    logits = {"primary_class": torch.randn(2, 3, requires_grad=True), "tags": torch.randn(2, 4, requires_grad=True)}
    loss = task_loss(logits, {"primary_class": torch.tensor([-1, -1]), "tags": torch.zeros(2, 4)}, {"primary_class": 0, "tags": 0})
    loss.backward()
    assert loss.item() == 0
    assert all(value.grad is not None and not value.grad.any() for value in logits.values())
