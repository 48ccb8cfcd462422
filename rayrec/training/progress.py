"""The progress of a training, seen from another process: the first worker writes it to a file, the driver reads it and logs it.

A thread writes, so that no step waits for a bucket. The last report is written when the training ends.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import pyarrow.fs as pafs

from rayrec.training.callbacks import Epoch, Progress, TrainingCallback
from rayrec.workspace.files import from_json, read_whole, to_json, with_nan, write_whole

PROGRESS = "progress.json"  # beside what is trained
LOG_S = 10.0  # between two log lines within an epoch
LOCAL_S, REMOTE_S = 0.5, 10.0  # between two reads of the file, and between two writes: on a disk, and elsewhere

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProgressReport:
    """All epochs so far, and the progress within the one that is under way."""

    epochs: list[Epoch] = field(default_factory=list)
    now: Progress | None = None


@dataclass
class ProgressFile:
    """A `ProgressReport` as JSON."""

    fs: pafs.FileSystem
    path: str

    @property
    def interval(self) -> float:
        return LOCAL_S if isinstance(self.fs, pafs.LocalFileSystem) else REMOTE_S

    def read(self) -> ProgressReport:
        """An empty report where there is no file yet."""
        try:
            facts = from_json(read_whole(self.fs, self.path))
        except FileNotFoundError:
            return ProgressReport()
        now = Progress(**with_nan(facts["now"])) if facts["now"] else None
        return ProgressReport([Epoch.from_json(with_nan(epoch)) for epoch in facts["epochs"]], now)

    def write(self, report: ProgressReport) -> None:
        facts = {
            "epochs": [epoch.to_json() for epoch in report.epochs],
            "now": asdict(report.now) if report.now else None,
        }
        write_whole(self.fs, self.path, to_json(facts))

    @contextmanager
    def written(self) -> Iterator[TrainingCallback]:
        """A callback, for the first worker, whose reports are written to the file while the block runs and at its end."""
        latest: list[ProgressReport] = []
        ended = threading.Event()
        writer = threading.Thread(target=self._keep_up, args=(latest, ended), daemon=True)
        writer.start()

        def report(epochs: list[Epoch], now: Progress | None = None) -> None:
            latest[:] = [ProgressReport(list(epochs), now)]

        try:
            yield TrainingCallback(report, lambda now, epochs: report(epochs, now))
        except BaseException:
            with suppress(OSError):  # the error of the training matters more
                self._finish(latest, ended, writer)
            raise
        self._finish(latest, ended, writer)

    def _keep_up(self, latest: list[ProgressReport], ended: threading.Event) -> None:
        """Write a report that is new, from time to time."""
        written: list[ProgressReport] = []
        while not ended.wait(self.interval):
            if (now := latest[:]) != written:
                try:
                    self.write(now[0])
                    written = now
                except OSError as error:  # it is tried again
                    log.warning("%s can't be written: %s", self.path, error)

    def _finish(self, latest: list[ProgressReport], ended: threading.Event, writer: threading.Thread) -> None:
        ended.set()
        writer.join()
        for report in latest:
            self.write(report)


@contextmanager
def logged(file: ProgressFile, name: str, epochs: int) -> Iterator[None]:
    """Log what the file reports while the block runs: a line at the end of each epoch, of at most `epochs`, and some within it."""
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(file, name, epochs, done), daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def _follow(file: ProgressFile, name: str, epochs: int, done: threading.Event) -> None:
    logged, logged_at, is_last = len(file.read().epochs), time.monotonic(), False
    while not is_last:
        is_last = done.wait(file.interval)  # read once more after the end
        report = file.read()
        for epoch in report.epochs[logged:]:
            log.info("%s: epoch %d of %d, %s", name, epoch.epoch, epochs, describe(epoch))
            logged, logged_at = epoch.epoch, time.monotonic()
        now = report.now
        if now and time.monotonic() - logged_at > LOG_S:
            where = f"epoch {now.epoch} of {epochs}, step {now.step:,} of {now.steps:,}, loss {now.loss:.4f}"
            log.info("%s: %s, %s examples/s, %.0f s to go", name, where, f"{now.examples_per_s:,.0f}", now.seconds_left)
            logged_at = time.monotonic()


def describe(epoch: Epoch) -> str:
    """An epoch in words: "loss 0.5123, validation AUC 0.7012, 1,234 examples/s"."""
    values = {"loss": epoch.loss} | epoch.metrics
    parts = [f"{name.replace('_', ' ').replace('auc', 'AUC')} {value:.4f}" for name, value in values.items()]
    return ", ".join([*parts, f"{epoch.examples_per_s:,.{0 if epoch.examples_per_s >= 100 else 1}f} examples/s"])
