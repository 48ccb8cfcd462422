"""rayrec: a recommender for short videos, from raw videos to recommendations over HTTP, on Ray."""

import ctypes
import os

# torch reads these variables when it is imported, so they are set here. Threads sleep while they wait: on cores that other
# processes use too, spinning made training ten times slower. Large tensors use huge pages, which speed up lookups in embeddings.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# By default glibc returns freed memory to the system and requests it again page by page, which takes half of a training step on a
# CPU. With these settings it keeps blocks of up to 32 MiB, up to 1 GiB in all. Other C libraries have no such setting.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 2**30)

__version__ = "0.2.0"
