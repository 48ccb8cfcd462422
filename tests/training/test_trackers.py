"""What TensorBoard's files and MLflow's store hold after a training that was told to log."""

import logging
import os
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from rayrec.config import Config, ConfigError, Ranker, Training
from rayrec.training.callbacks import Epoch, Progress, TrainingCallback, together
from rayrec.training.trackers import check, hyperparameters, tracked
from rayrec.workspace.versions import Workspace

FIRST = Epoch(1, 0.6, 1000.0, {"validation_auc": 0.7, "validation_log_loss": 0.5})
SECOND = Epoch(2, 0.5, 1100.0, {"validation_auc": float("nan"), "validation_log_loss": 0.4})


def config(*log_to: str) -> Config:
    return Config(ranker=Ranker(model="din", options={"a": {"b": 1}}, hidden=[8, 4]), training=Training(log_to=list(log_to)))


def events(folder: Path) -> list[Event]:
    """The records of all event files: length (8 bytes), checksum (4), an `Event`, checksum (4)."""
    found = []
    for path in sorted(folder.glob("*tfevents*"), key=os.path.getmtime):
        data, place = path.read_bytes(), 0
        while place < len(data):
            size = int.from_bytes(data[place : place + 8], "little")
            found.append(Event.FromString(data[place + 12 : place + 12 + size]))
            place += 12 + size + 4
    return found


def stop_after_an_epoch(settings: Config, folder: str, mlflow: str | None) -> None:
    with tracked(settings, folder, mlflow) as callback:
        callback.on_epoch([FIRST])
        raise KeyboardInterrupt


def test_tensorboard_shows_a_point_an_epoch_also_after_a_kill(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop_after_an_epoch(config("tensorboard"), str(tmp_path), None)
    with tracked(config("tensorboard"), str(tmp_path), None) as callback:
        callback.on_epoch([FIRST, SECOND])
    scalars, tags = defaultdict(list), set()
    for event in events(tmp_path / "tensorboard"):
        for value in event.summary.value:
            tags.add(value.tag)
            if value.WhichOneof("value") == "simple_value":
                scalars[value.tag].append((event.step, round(value.simple_value, 6)))
    assert scalars == {
        "loss": [(1, 0.6), (2, 0.5)],
        "validation_auc": [(1, 0.7)],
        "validation_log_loss": [(1, 0.5), (2, 0.4)],
        "examples_per_s": [(1, 1000), (2, 1100)],
    }
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= tags


def test_mlflow_holds_one_run_also_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs `pip install rayrec[mlflow]`")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    settings = config("mlflow")
    address = check(settings, Workspace(tmp_path))
    client = mlflow.MlflowClient(address)

    def runs() -> list:
        return client.search_runs([client.get_experiment_by_name("rayrec").experiment_id])

    with pytest.raises(KeyboardInterrupt):
        stop_after_an_epoch(settings, "/w/train/1f2e/ranker", address)
    assert [run.info.status for run in runs()] == ["FAILED"]
    with tracked(settings, "/w/train/1f2e/ranker", address) as callback:
        callback.on_epoch([FIRST, SECOND])
        assert [run.info.status for run in runs()] == ["RUNNING"]
    [run] = runs()
    assert (run.info.run_name, run.info.status) == ("1f2e/ranker", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in hyperparameters(settings).items()}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.6), (2, 0.5)]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "validation_auc")] == [1]

    with tracked(settings, "/w/train/1f2e/ranker", address) as callback, caplog.at_level(logging.WARNING):
        [again] = [run for run in runs() if run.info.status == "RUNNING"]
        client.delete_run(again.info.run_id)
        callback.on_epoch([FIRST])  # training goes on
    assert "MLflow did not take epoch 1 of run 1f2e/ranker" in caplog.text


def test_hyperparameters_have_the_names_of_overrides() -> None:
    found = hyperparameters(config())
    assert found["ranker.model"] == "din"
    assert found["ranker.options.a.b"] == 1
    assert found["ranker.hidden"] == "[8, 4]"
    assert found["training.clip"] == "null"
    assert found["training.learning_rate"] == 1e-3


def test_what_cannot_work_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = Workspace(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert check(config(), Workspace("memory://w")) is None
    assert check(config("tensorboard"), local) is None
    with pytest.raises(ConfigError, match="need a local workspace, not memory://w"):
        check(config("tensorboard"), Workspace("memory://w"))
    monkeypatch.setattr("rayrec.config.base.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'rayrec\[mlflow\]'"):
        check(config("mlflow"), local)
    monkeypatch.setattr("rayrec.config.base.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        check(config("mlflow"), local)


def test_callbacks_together_are_all_called() -> None:
    heard: list[object] = []
    progress = Progress(1, 2, 3, 0.5, 10.0, 1.0)
    one = TrainingCallback(heard.append, lambda now, epochs: heard.append((now, epochs)))
    both = together([one, one])
    both.on_epoch([FIRST])
    both.on_progress(progress, [FIRST])
    assert heard == [[FIRST]] * 2 + [(progress, [FIRST])] * 2
