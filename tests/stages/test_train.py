"""Workers of Ray Train end where the calling process alone does, even when one of them is killed on the way."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.fs as pafs
import pytest
from safetensors.numpy import load_file

from rayrec.config import Config, ConfigError, Ranker, load
from rayrec.data.errors import DataError
from rayrec.errors import RayrecError
from rayrec.ranking.warm_start import WarmStart
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.training.progress import PROGRESS, ProgressFile
from rayrec.training.trainer import DivergedError
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.training.small_log import GOALS, START, ingest

SETTINGS = ["ranker.embedding_size=4", "ranker.hidden=[8]", "ranker.dropout=0", "ranker.id_dropout=0", "training.batch_size=64"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = load(None, [f"workspace={tmp_path_factory.mktemp('training')}", *SETTINGS])
    run_stage(Workspace(config.workspace), ingest(6000), config)
    return config


def trained(config: Config, **training: Any) -> Path:
    """The folder of a ranker trained with these settings."""
    settings = config.model_copy(update={"training": config.training.model_copy(update=training)})
    run_stages([load_stage("train")], settings)
    return Path(Workspace(config.workspace).folder("train")) / "ranker"


def kill_a_worker(workspace: Path, after_epoch: int) -> None:
    """Wait until so many epochs are done, then kill one of Ray Train's worker processes."""
    while not any(
        len(ProgressFile(pafs.LocalFileSystem(), str(path)).read().epochs) >= after_epoch
        for path in workspace.glob(f"train/*/ranker/{PROGRESS}")
        if not (path.parent.parent / "manifest.json").exists()
    ):
        time.sleep(0.01)
    children = psutil.Process().children(recursive=True)
    next(child for child in children if "RayTrainWorker" in "".join(child.cmdline())).kill()


def test_two_workers_of_which_one_is_killed_end_as_one_alone(config: Config, ray_cluster: str) -> None:
    alone = trained(config, epochs=10, patience=10)
    killer = threading.Thread(target=kill_a_worker, args=(Path(config.workspace), 2), daemon=True)
    killer.start()
    together = trained(config, epochs=10, patience=10, workers=2, restarts=1)
    killer.join(timeout=1)
    assert not killer.is_alive()
    assert together != alone
    weights = load_file(together / "weights.safetensors")
    for name, values in load_file(alone / "weights.safetensors").items():
        np.testing.assert_allclose(weights[name], values, atol=2e-3, err_msg=name)
    runs = [ProgressFile(pafs.LocalFileSystem(), str(folder / PROGRESS)).read().epochs for folder in (alone, together)]
    assert len(runs[0]) == len(runs[1]) == 10
    for one, other in zip(*runs, strict=True):
        assert one.metrics["validation_auc"] == pytest.approx(other.metrics["validation_auc"], abs=2e-3)
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
    assert not list(together.glob("checkpoint*"))


def test_two_workers_learn_several_goals_as_one_alone(tmp_path: Path, ray_cluster: str) -> None:
    config = load(None, [f"workspace={tmp_path}", *SETTINGS])
    config = config.model_copy(update={"ranker": Ranker.model_validate(config.ranker.model_dump() | {"goals": GOALS})})
    run_stage(Workspace(config.workspace), ingest(3000, labels=True), config)
    alone, together = (trained(config, epochs=2, workers=workers) for workers in (1, 2))
    weights = load_file(together / "weights.safetensors")
    for name, values in load_file(alone / "weights.safetensors").items():
        np.testing.assert_allclose(weights[name], values, atol=1e-3, err_msg=name)
    runs = [ProgressFile(pafs.LocalFileSystem(), str(folder / PROGRESS)).read().epochs for folder in (alone, together)]
    for one, other in zip(*runs, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert {name: pytest.approx(value, abs=2e-3) for name, value in one.metrics.items()} == other.metrics
    assert {"validation_like_auc", "validation_watch_xauc"} < runs[0][0].metrics.keys()


def publish_without_a_bundle(config: Config) -> None:
    """A version of the stage that names the ranker which is served."""
    run_stage(Workspace(config.workspace), Stage("publish", lambda run: run.count(0, 0), after=("train",)), config)


def test_a_training_goes_on_from_the_published_ranker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It learns from what is new alone, from the third version on from what the second one learned."""
    config = load(None, [f"workspace={tmp_path}", *SETTINGS, "training.epochs=1", "training.from=current"])
    workspace = Workspace(config.workspace)
    ends, steps = [START], 0
    for rows in (3000, 4500, 6000):
        run_stage(workspace, ingest(rows), config, force=True)
        with caplog.at_level("INFO"):
            folder = trained(config)
        start = WarmStart.load(workspace.fs, str(folder), config.ranker)
        steps += -(-(start.until - ends[-1]) // 64)
        assert {value.item() for name, value in start.moments.items() if name.endswith("|step")} == {steps}
        ends.append(start.until)
        assert trained(config) == folder  # nothing is new, so that nothing is done
        publish_without_a_bundle(config)
    assert ends == [START + int(rows * 0.8) for rows in (0, 3000, 4500, 6000)]
    assert "no ranker has been published yet, so the training begins from the start" in caplog.text
    with pytest.raises(DataError, match="the published ranker has learned from all of the training split"):
        run_stages([load_stage("train")], config, force=True)
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(WorkspaceError, match=r"the published ranker is that of train/[\w-]+, but .* has 0 bytes instead of"):
        trained(config, learning_rate=0.01)


def test_what_cannot_be_trained_is_refused_before_and_after_the_start(config: Config, ray_cluster: str) -> None:
    with pytest.raises(ConfigError, match="no model 'wide_dep'; did you mean 'wide_deep'"):
        run_stages(
            [load_stage("train")], config.model_copy(update={"ranker": config.ranker.model_copy(update={"model": "wide_dep"})})
        )
    with pytest.raises(ConfigError, match=r"17 workers can't share the 16 shards of the log; set encoding.shards to 17 or more"):
        trained(config, workers=17)
    with pytest.raises(DivergedError, match=r"training diverged: the loss became nan in step \d+ of epoch 1"):
        trained(config, learning_rate=1e30)
    # The error of workers is no failure that Ray Train should mend by starting them again.
    with pytest.raises(RayrecError, match=r"training diverged: the loss became nan in step \d+ of epoch 1"):
        trained(config, learning_rate=2e30, workers=2, restarts=1)
