"""The logits of `gmf`, `mlp` and `neumf` equal their formulas, and `neumf` starts from the two others where it is told to."""

from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Ranker, Training
from rayrec.data.batches import Batch
from rayrec.data.loading import RankingData
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.models.gmf import GMF
from rayrec.ranking.models.mlp import MLP
from rayrec.ranking.models.neumf import NeuMF
from rayrec.ranking.scorer import Scorer
from rayrec.workspace.checkpoint import Checkpoint
from tests.ranking.impressions import dot, request_mlp, requests, untrained
from tests.ranking.models.pairs import pairs_of

TRAINING = Training(epochs=2, batch_size=64, learning_rate=5e-3)


def gmf_logit(model: GMF, user: list[float], item: list[float]) -> float:
    products = [p * q for p, q in zip(user, item, strict=True)]
    return dot(model.head.weight[0].tolist(), products) + model.head.bias.item()


def formula(model: GMF | MLP | NeuMF, batch: Batch) -> torch.Tensor:
    logits = torch.zeros(batch.candidates.shape)
    if isinstance(model, NeuMF):
        return formula(model.gmf, batch) + formula(model.mlp, batch)
    for index, (user, item) in pairs_of(model.pairs, batch):
        logits[index] = gmf_logit(model, user, item) if isinstance(model, GMF) else request_mlp(model.network, user, item)
    return logits


@pytest.mark.parametrize("name", ["gmf", "mlp", "neumf"])
@pytest.mark.parametrize("content", [True, False])
def test_logits_equal_the_formula(data: RankingData, settings: Ranker, name: str, content: bool) -> None:
    settings = settings.model_copy(update={"fusion": "user_attention"})
    model = untrained(name, data, settings, spread=0.4, content=content).model.eval()
    batch = requests(data, settings, 3)
    torch.testing.assert_close(model(batch), formula(model, batch), atol=1e-4, rtol=1e-4)


def test_without_content_ids_alone_count(data: RankingData, settings: Ranker) -> None:
    model = untrained("gmf", data, settings, spread=0.4, content=False).model.eval()
    batch = requests(data, settings, 3)
    tables = {"user": model.pairs.inputs.users, "item": model.pairs.inputs.items}
    weights = {name: table.lookups[0].weight[:, :-1] for name, table in tables.items()}
    assert len(weights["user"]) == data.users.sizes["user_id"]
    assert len(weights["item"]) == data.items.sizes["video_id"]
    users, items = (table.categorical[name] for table, name in ((data.users, "user_id"), (data.items, "video_id")))
    expected = weights["user"][users[batch.user]][:, None] * weights["item"][items[batch.candidates]]
    torch.testing.assert_close(model(batch), model.head(expected).squeeze(-1))


def trained(
    data: RankingData, settings: Ranker, name: str, epochs: int = 2, checkpoint: Checkpoint | None = None, **options: int
) -> Scorer:
    settings = settings.model_copy(update={"model": name, "options": options, "dropout": 0.0, "id_dropout": 0.0})
    return train_ranker(data, settings, TRAINING.model_copy(update={"epochs": epochs}), 3, checkpoint=checkpoint)[0]


def test_pretraining_starts_from_half_the_sum_of_the_two_logits(data: RankingData, settings: Ranker) -> None:
    """A learning rate of nearly nothing in the epochs of the whole leaves it where it starts."""
    found: list[torch.Tensor] = []
    model = untrained("neumf", data, settings, spread=0.4, pretrain_epochs=3).model
    batch = requests(data, settings, 5)

    def train(part: GMF | MLP, epochs: int) -> None:
        assert epochs == 3
        found.append(part.eval()(batch))

    model.pretrain(train)
    torch.testing.assert_close(model.eval()(batch), (found[0] + found[1]) / 2)


def test_pretraining_makes_another_model(data: RankingData, settings: Ranker) -> None:
    batch = requests(data, settings, 5)
    models = (trained(data, settings, "neumf", pretrain_epochs=epochs).model.eval() for epochs in (0, 2, 2))
    plain, pretrained, again = (model(batch) for model in models)
    assert torch.equal(pretrained, again)
    assert not torch.allclose(plain, pretrained)


def test_a_training_that_goes_on_is_not_pretrained_again(
    data: RankingData, settings: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(pafs.LocalFileSystem(), str(tmp_path / "state"))
    batch = requests(data, settings, 5)
    whole = trained(data, settings, "neumf", pretrain_epochs=1).model.eval()(batch)
    trained(data, settings, "neumf", 1, checkpoint, pretrain_epochs=1)
    monkeypatch.delattr(NeuMF, "pretrain")
    resumed = trained(data, settings, "neumf", 2, checkpoint, pretrain_epochs=1).model.eval()(batch)
    assert torch.equal(resumed, whole)
