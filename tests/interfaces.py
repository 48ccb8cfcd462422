"""When a network interface comes or goes, Chromium aborts what it loads (ERR_NETWORK_CHANGED), so no test does both at once."""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = Path(tempfile.gettempdir()) / "rayrec-test-interfaces.lock"


@contextmanager
def unchanged() -> Iterator[None]:
    """While this is held, by any number of processes, no test adds or removes an interface of this machine."""
    yield from _locked(fcntl.LOCK_SH)


@contextmanager
def changing() -> Iterator[None]:
    """Waits until no test needs the interfaces as they are."""
    yield from _locked(fcntl.LOCK_EX)


def _locked(kind: int) -> Iterator[None]:
    with LOCK.open("w") as file:
        fcntl.flock(file, kind)
        yield
