"""The example of a new model trains, is saved and loaded, and is found in a Ray worker."""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import torch

from rayrec.config import Ranker, load
from rayrec.data.batches import training_batches
from rayrec.data.loading import join_items, prepare
from rayrec.data.windows import HistoryGather
from rayrec.ranking import models
from rayrec.ranking.scorer import Scorer
from tests.ranking.impressions import requests

EXAMPLE = Path(__file__).parents[2] / "examples" / "new_model"
CPU = torch.device("cpu")


def test_the_new_model_trains_for_an_epoch(raw: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(EXAMPLE)
    config = load("two_tower.yaml", ["training.batch_size=20"])
    settings = config.ranker.model_copy(update={"item_fields": ["author_id", "tags"]})
    data = prepare(raw["interactions"], join_items(raw["catalog"], None, None, []), raw["users"], settings, config.split)
    torch.manual_seed(0)
    scorer = Scorer.untrained(settings, data)
    model = scorer.model
    assert type(model).__name__ == "TwoTower"
    optimizer, gather = model.optimizer(config.training), HistoryGather(data.clicks, model.window, CPU)
    losses = []
    for epoch in range(2):
        for batch, _ in training_batches(data.train, gather, config.training, CPU, 0, epoch):
            optimizer.zero_grad()
            loss = model.losses(batch).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    steps = len(losses) // 2
    assert sum(losses[steps:]) < sum(losses[:steps])  # the second epoch's are smaller

    scorer.save(pafs.LocalFileSystem(), str(tmp_path))
    loaded = Scorer.load(pafs.LocalFileSystem(), str(tmp_path))
    batch = requests(data, settings, 7)
    assert torch.equal(model.eval()(batch), loaded.model.eval()(batch))


def test_a_ray_worker_finds_the_model(ray_cluster: str) -> None:
    import ray

    def find() -> str:
        return models.check(Ranker(model="examples.new_model.two_tower:TwoTower")).__name__

    assert ray.get(ray.remote(find).remote()) == "TwoTower"
