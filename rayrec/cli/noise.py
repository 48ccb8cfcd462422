"""Keeps lines that Ray's native code prints when nothing is wrong from the terminal, and lets everything else through."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# For each actor of Ray Data that may restart, Ray logs as an error that a restart could fail. Only the log level of all its native
# code could turn that off, and real errors with it.
KNOWN = r"core_worker\.cc:\d+: Actor .* has constructor arguments in the object store and max_restarts > 0"
FILTER = f"""
import re, sys
known = re.compile(rb"{KNOWN}")
for line in sys.stdin.buffer:
    if not known.search(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
END_TIMEOUT_S = 5


@contextlib.contextmanager
def without_known_noise() -> Iterator[None]:
    """Filters what native code writes to the standard error. What Python writes goes to the terminal directly.

    The filter is a process of its own, so that the last words of a process that crashes are printed too.
    """
    try:
        terminal = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # no real file, as in tests
        yield
        return
    # In a new session, so that Ctrl-C ends the filter after us and not before.
    command = [sys.executable, "-I", "-S", "-c", FILTER]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal, start_new_session=True)
    assert child.stdin is not None
    before, sys.stderr = sys.stderr, os.fdopen(terminal, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        sys.stderr = before
        os.close(terminal)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that outlives us may still have its end of the pipe
            child.wait(END_TIMEOUT_S)
