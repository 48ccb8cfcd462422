"""How training goes, seen from another process: the first worker writes it to a file, the driver reads it and logs lines."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import pyarrow.fs as pafs

from rayrec.errors import RayrecError
from rayrec.training.trainer import Epoch, Progress, TrainingCallback
from rayrec.workspace.files import read_whole, write_whole

LINE_S = 10.0  # between two lines within an epoch
LOOK_S = 0.5  # between two looks at the file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProgressReport:
    """All epochs so far, where the one under way stands, and the message of the error that ended it all."""

    epochs: list[Epoch] = field(default_factory=list)
    now: Progress | None = None
    mistake: str | None = None


@dataclass
class ProgressFile:
    """`ProgressReport` as JSON."""

    fs: pafs.FileSystem
    path: str
    written_at: float = 0.0

    def read(self) -> ProgressReport:
        try:
            facts = json.loads(read_whole(self.fs, self.path))
        except FileNotFoundError:
            return ProgressReport()
        now = Progress(**facts["now"]) if facts["now"] else None
        return ProgressReport([Epoch(**epoch) for epoch in facts["epochs"]], now, facts["mistake"])

    def write(self, news: ProgressReport) -> None:
        write_whole(self.fs, self.path, json.dumps(asdict(news)).encode())
        self.written_at = time.monotonic()

    def callback(self) -> TrainingCallback:
        """For the first worker's `fit`."""

        def on_progress(progress: Progress, epochs: list[Epoch]) -> None:
            if time.monotonic() - self.written_at > LOOK_S:
                self.write(ProgressReport(epochs, progress))

        return TrainingCallback(lambda epochs: self.write(ProgressReport(epochs)), on_progress)


def raise_mistake(news: ProgressReport) -> None:
    """Raises `RayrecError` where a mistake ended the run."""
    if news.mistake:
        raise RayrecError(news.mistake)


@contextmanager
def followed(file: ProgressFile, name: str, epochs: int) -> Iterator[None]:
    """Log the file's news while the block runs: a line an epoch, and one every ten seconds within."""
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(file, name, epochs, done), daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def _follow(file: ProgressFile, name: str, epochs: int, done: threading.Event) -> None:
    logged, spoke_at, last = len(file.read().epochs), time.monotonic(), False
    while not last:
        last = done.wait(LOOK_S)  # one more look after the end
        news = file.read()
        for epoch in news.epochs[logged:]:
            speed = f"{epoch.examples_per_s:,.0f} examples/s"
            log.info(
                "%s: epoch %d of %d, loss %.4f, validation AUC %.4f, %s",
                *(name, epoch.epoch, epochs, epoch.loss, epoch.validation_auc, speed),
            )
            logged, spoke_at = epoch.epoch, time.monotonic()
        now = news.now
        if now and time.monotonic() - spoke_at > LINE_S:
            where = f"epoch {now.epoch} of {epochs}, step {now.step:,} of {now.steps:,}, loss {now.loss:.4f}"
            log.info("%s: %s, %s examples/s, %.0f s to go", name, where, f"{now.examples_per_s:,.0f}", now.seconds_left)
            spoke_at = time.monotonic()
