"""The logits of `lr` equal its formula, computed one hashed value at a time, hashed with Python's integers."""

import hashlib

import numpy as np
import pytest
import torch

from rayrec.config import Ranker, Training
from rayrec.data.fields import FieldTable
from rayrec.data.loading import RankingData
from rayrec.ranking.models.lr import keys_of
from rayrec.training.optimizers import Ftrl
from tests.ranking.impressions import requests, untrained

BUCKETS = 37  # few, so that values share them


def splitmix(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


def key(field: str, value: int) -> int:
    seed = int.from_bytes(hashlib.blake2b(field.encode(), digest_size=8).digest(), "little")
    return splitmix((seed + (value + 1) * 0x9E3779B97F4A7C15) % 2**64)


def test_keys_are_splitmix64() -> None:
    """The numbers that the generator's published code gives for the seed 0."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [number % 2**64 for number in keys_of(0, torch.arange(3)).tolist()] == published


@pytest.mark.parametrize("crosses", [False, True])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, crosses: bool) -> None:
    model = untrained("lr", data, settings, spread=0.5, buckets=BUCKETS, crosses=crosses).model.eval()
    batch = requests(data, settings, 3)
    logits, weights = model(batch), model.weights.weight[:, 0].tolist()

    def weight(hashed: int) -> float:
        return weights[hashed % 2**63 % BUCKETS] * (-1 if hashed >= 2**63 else 1)

    def values(table: FieldTable, ids: str, row: int) -> list[tuple[str, int, float]]:
        """(field, key, share) of a row's values."""
        found = [(field, key(f"{ids} {field}", int(column[row])), 1.0) for field, column in table.categorical.items()]
        for field, column in table.multivalued.items():
            several = [value for value in column[row].tolist() if value]
            found += [(field, key(f"{ids} {field}", value), 1 / len(several)) for value in several]
        return found

    def numbers(table: FieldTable, row: int, layer: torch.nn.Parameter) -> float:
        row_values = [table.numeric[name][row].item() for name in sorted(table.numeric)]
        row_values += [number for name in sorted(table.vectors) for number in table.vectors[name][row].tolist()]
        return sum(a * b for a, b in zip(row_values, layer.tolist(), strict=True))

    for b, n in np.ndindex(5, 3):
        user, video = int(batch.user[b]), int(batch.candidates[b, n])
        of_request = values(data.users, "user_id", user)
        for index, field in enumerate(settings.context_fields):
            of_request.append((field, key(f"context {field}", int(batch.context[b, index])), 1.0))
        of_video = values(data.items, "video_id", video)
        expected = model.bias.item() + sum(share * weight(hashed) for _, hashed, share in of_request + of_video)
        expected += numbers(data.users, user, model.users.number_weights) + numbers(data.items, video, model.items.number_weights)
        clicked = [row for row in batch.history[b].tolist() if row]
        for row in clicked:
            for field, hashed, share in values(data.items, "video_id", row):
                if field in ("video_id", "topics"):
                    expected += share * weight(splitmix(hashed ^ 0x9E3779B97F4A7C15)) / len(clicked)
        if crosses:
            for _, one, share in of_request:
                for _, other, other_share in of_video:
                    expected += share * other_share * weight(splitmix((one + other) % 2**64))
        assert logits[b, n].item() == pytest.approx(expected, abs=1e-4)


def test_ids_are_hidden_only_while_training(data: RankingData, settings: Ranker) -> None:
    settings = settings.model_copy(update={"id_dropout": 1.0})
    model = untrained("lr", data, settings).model
    keys, *_ = model.items.train()(torch.tensor([1, 2]))
    assert keys[:, 0].tolist() == [model.items.keys[torch.tensor([0])][0, 0].item()] * 2
    keys, *_ = model.items.eval()(torch.tensor([1, 2]))
    assert torch.equal(keys, model.items.keys[torch.tensor([1, 2])])


def test_ftrl_trains_it(data: RankingData, settings: Ranker) -> None:
    optimizer = untrained("lr", data, settings, alpha=0.2, l1=0.01).model.optimizer(Training())
    assert isinstance(optimizer, Ftrl)
    assert optimizer.param_groups[0]["alpha"] == 0.2
    assert optimizer.param_groups[0]["l1"] == 0.01
