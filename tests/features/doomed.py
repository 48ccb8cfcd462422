"""A decoder that dies of files with certain names, in the ways in which real decoders die."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayrec.config import Features
from rayrec.features.rows import decode_rows
from tests.features.clips import write_clip


def doomed(rows: pa.Table, settings: Features, failure: str | None = None) -> pa.Table:
    """`decode_rows`, but for files whose names say what happens to the process that decodes them."""
    if failure is None:
        name = Path(rows["uri"][0].as_py()).stem
        if name == "abort":
            os.abort()
        elif name == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif name == "hangs":
            while True:
                time.sleep(1)
        elif name == "second_time_well" and not Path(rows["uri"][0].as_py()).exists():
            write_clip(Path(rows["uri"][0].as_py()))
            os.abort()
        elif name == "greedy":
            np.ones(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), np.uint8)  # never allocated: it is beyond the limit
    return decode_rows(rows, settings, failure)
