"""rayrec: a recommender for short videos, from raw videos to recommendations over HTTP, on Ray."""

import os

# torch's threads on CPUs: wait asleep, not spinning. Where others use the cores too, spinning made training ten times slower. Read
# when torch is loaded, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
