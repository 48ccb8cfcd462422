"""Streamed training examples are the same as those in memory, in the same batches."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rayrec.config import Config, load
from rayrec.data import blocks
from rayrec.data.batches import training_batches
from rayrec.data.examples import Examples
from rayrec.data.fields import DataError
from rayrec.data.history import HistoryGather
from rayrec.stages.on_ray.streaming import StreamedExamples, training_data, write_blocks
from rayrec.training.exchange import SINGLE, Worker
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

CPU, ROWS = torch.device("cpu"), 600


def write_log(run: StageRun) -> None:
    rng = np.random.default_rng(0)
    names = {name: [f"{name[0]}{i}" for i in rng.integers(0, 30, ROWS)] for name in ("user_id", "video_id", "device")}
    names |= {"shown_at": np.sort(rng.integers(0, 400, ROWS)), "clicked": rng.random(ROWS) < 0.4}
    run.write("interactions", pa.table(names))
    folder = f"{run.folder}/interactions"
    log = pq.read_table(f"{folder}/part-0.parquet")
    for part, group_rows in enumerate((150, 300)):  # as large logs are: several files of several row groups
        pq.write_table(log.slice(part * 300, 300), f"{folder}/part-{part}.parquet", row_group_size=group_rows)
    run.write("catalog", pa.table({"video_id": [f"v{i}" for i in range(28)]}))
    run.count(ROWS, ROWS)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    training = {"batch_size": 64, "stream_above": 100, "cut_histories": 0.3, "hidden_clicks": 0.1}
    settings = {"workspace": tmp_path} | {f"training.{name}": value for name, value in training.items()}
    config = load(None, [f"{key}={value}" for key, value in settings.items()] + ["ranker.context_fields=[device, hour]"])
    run_stage(Workspace(config.workspace), Stage("ingest", write_log, writes=("catalog", "interactions")), config)
    return config


def test_streamed_batches_equal_those_of_memory(ray_cluster: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 100)
    workspace = Workspace(config.workspace)
    folder = f"{workspace.root}/blocks"
    write_blocks(workspace, config, folder)
    streamed = training_data(workspace, config, folder)
    whole = training_data(workspace, changed(config, "training", stream_above=ROWS), "")
    assert isinstance(streamed.train, StreamedExamples)
    assert isinstance(whole.train, Examples)
    assert len(streamed.train) == len(whole.train) > ROWS / 2
    assert streamed.train.block_sizes.tolist() == whole.train.block_sizes.tolist()
    assert len(streamed.train.block_sizes) > 3
    for part in ("validation", "test"):
        for one, other in zip(getattr(streamed, part).columns, getattr(whole, part).columns, strict=True):
            assert np.array_equal(one, other)
    assert streamed.test_log["shown_at"].to_pylist() == streamed.test.at.tolist()

    gather = HistoryGather(streamed.clicks, 5, CPU)
    for epoch, worker, skip in ((0, SINGLE, 0), (1, Worker(1, 2), 3)):
        given = training_batches(streamed.train, gather, config.training, CPU, 7, epoch, worker, skip)
        wanted = training_batches(whole.train, gather, config.training, CPU, 7, epoch, worker, skip)
        for (one, size), (other, expected_size) in zip_longest(given, wanted):
            assert size == expected_size
            for name, tensor in vars(other).items():
                assert torch.equal(getattr(one, name), tensor), name


def test_an_unknown_context_field_is_refused(config: Config) -> None:
    mistaken = changed(config, "ranker", context_fields=["devise"])
    with pytest.raises(DataError, match=r"ranker.context_fields: the log has no column 'devise'; did you mean 'device'\?"):
        write_blocks(Workspace(config.workspace), mistaken, "")


def changed(config: Config, section: str, **settings: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=settings)})
