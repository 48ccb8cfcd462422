"""The progress of a training through its file: what is written is read, and logged by whoever follows it."""

import logging
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from rayrec.training.callbacks import Epoch, Progress
from rayrec.training.progress import ProgressFile, ProgressReport, describe, logged
from rayrec.workspace.files import open_filesystem
from tests.fixtures.s3 import S3

FIRST = Epoch(1, 0.51234, 12_345.6, {"validation_auc": 0.7, "validation_log_loss": 0.5})
NOW = Progress(2, 100, 200, 0.4, 12_000.0, 3.0)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = ProgressFile(pafs.LocalFileSystem(), f"{tmp_path}/progress.json")
    assert file.read() == ProgressReport()
    with file.written() as callback:
        callback.on_epoch([FIRST])
    assert file.read() == ProgressReport([FIRST])
    file.write(ProgressReport([FIRST], NOW))
    assert file.read() == ProgressReport([FIRST], NOW)


def test_progress_files_of_version_0_1_are_read(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(
        '{"epochs": [{"epoch": 1, "loss": 0.5, "validation_auc": 0.7, "validation_log_loss": NaN, "examples_per_s": 10.0}],'
        ' "now": null, "mistake": null}'
    )
    (epoch,) = ProgressFile(pafs.LocalFileSystem(), f"{tmp_path}/progress.json").read().epochs
    assert (epoch.loss, epoch.examples_per_s, epoch.metrics["validation_auc"]) == (0.5, 10.0, 0.7)


def test_each_epoch_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = ProgressFile(pafs.LocalFileSystem(), f"{tmp_path}/progress.json")
    file.write(ProgressReport([FIRST]))
    with caplog.at_level(logging.INFO), logged(file, "ranker", 3), file.written() as callback:
        callback.on_epoch([FIRST, Epoch(2, 0.4, 7.0)])
    assert [line for line in caplog.messages if "epoch" in line] == ["ranker: epoch 2 of 3, loss 0.4000, 7.0 examples/s"]


def test_epochs_are_logged_while_a_training_on_a_disk_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = ProgressFile(pafs.LocalFileSystem(), f"{tmp_path}/progress.json")
    with caplog.at_level(logging.INFO), logged(file, "ranker", 3), file.written() as callback:
        callback.on_epoch([FIRST])
        until = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.05)
        assert len(caplog.messages) == 1


def test_in_a_bucket_a_short_training_costs_one_write_and_no_step_waits(s3: S3) -> None:
    bucket = s3.bucket()
    fs, folder = open_filesystem(s3.uri(bucket))
    file = ProgressFile(fs, f"{folder}/progress.json")
    with file.written() as callback:
        for step in range(1000):
            callback.on_progress(Progress(1, step, 1000, 0.4, 1.0, 1.0), [])
        callback.on_epoch([FIRST])
    assert file.read() == ProgressReport([FIRST])
    assert [request for request in s3.requests() if bucket in request and request.startswith("PUT")] == [
        f"PUT /{bucket}",
        f"PUT /{bucket}/progress.json",
    ]


def test_the_last_report_of_a_training_that_fails_is_kept(tmp_path: Path) -> None:
    file = ProgressFile(pafs.LocalFileSystem(), f"{tmp_path}/progress.json")

    def fail() -> None:
        with file.written() as callback:
            callback.on_progress(NOW, [FIRST])
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert file.read() == ProgressReport([FIRST], NOW)


def test_an_epoch_in_words() -> None:
    assert describe(FIRST) == "loss 0.5123, validation AUC 0.7000, validation log loss 0.5000, 12,346 examples/s"
