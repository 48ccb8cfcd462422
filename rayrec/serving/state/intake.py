"""How events reach a store: they wait in a queue, and a thread of its own writes all that wait at once.

Whoever hands events in gets a future and holds no thread while it waits. A store that can't write now, because another process
holds its lock or its disk is full, therefore stops neither reads nor pages.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from rayrec.serving.state.store import Event, StoreError

MAX_WAITING = 100_000  # events
GATHER_S = 0.002  # while several batches come at a time, a write waits so long for more: it costs as much for one as for many

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Events that are kept together or not at all."""

    events: Sequence[Event]
    result: Future[list[Event]]  # those of them that were there already, or why none was kept
    since: float  # when it arrived, seconds of a monotonic clock


class Intake:
    """The queue of one store. `write` must set the result of each batch; what it raises becomes that of all without one."""

    def __init__(self, write: Callable[[list[Batch]], None]) -> None:
        self._write = write
        self._waiting: list[Batch] = []
        self._count = 0  # events that wait
        self._writing: list[Batch] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def submit(self, events: Sequence[Event]) -> Future[list[Event]]:
        batch = Batch(events, Future(), time.monotonic())
        with self._changed:
            if self._closed or self._count + len(events) > MAX_WAITING:
                reason = "the store is closed" if self._closed else f"{self._count:,} events wait to be written already"
                batch.result.set_exception(StoreError(reason))
            else:
                self._waiting.append(batch)
                self._count += len(events)
                self._changed.notify()
        return batch.result

    def delay(self) -> float:
        """For how many seconds the oldest batch has been waiting or is being written; 0 if there is none."""
        with self._changed:
            oldest = [batches[0].since for batches in (self._writing, self._waiting) if batches]
        return time.monotonic() - min(oldest) if oldest else 0.0

    def close(self) -> None:
        """Writes what waits, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        batches: list[Batch] = []
        while True:
            with self._changed:
                self._writing = []
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
            if len(batches) > 1:
                time.sleep(GATHER_S)
            with self._changed:
                self._writing, self._waiting, self._count = self._waiting, [], 0
            batches = list(self._writing)
            try:
                self._write(batches)
            except Exception as error:
                if not isinstance(error, StoreError):
                    log.exception("events could not be written")
                for batch in batches:
                    if not batch.result.done():
                        batch.result.set_exception(error)


class WritesByIntake:
    """The part of a `StateStore` that takes events in. A store sets `_intake` when it is opened."""

    _intake: Intake

    def add_events(self, events: Sequence[Event]) -> list[Event]:
        return self.submit(events).result()

    def submit(self, events: Sequence[Event]) -> Future[list[Event]]:
        return self._intake.submit(events)

    def write_delay(self) -> float:
        return self._intake.delay()
