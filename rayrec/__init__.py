"""rayrec: a recommender for short videos, from raw videos to recommendations over HTTP, on Ray."""

import ctypes
import os

# Read when torch is loaded, so they stand here. Threads on CPUs wait asleep, not spinning: where others use the cores too, spinning
# made training ten times slower. Large tensors lie in huge pages: rows of a large embedding table are found faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# glibc hands freed memory back to the system and asks for it anew, page by page: half the time of a training step on a CPU. Kept
# instead: blocks of up to 32 MiB, and up to 1 GiB of free ones. Other C libraries have no such knob.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 2**30)

__version__ = "0.2.0"
