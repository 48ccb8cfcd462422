"""Small feedback for tests of models: users and items of two tastes, whose content shows them."""

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback, without

USERS, ITEMS = 61, 41  # index 0 included


def two_tastes(seed: int = 0) -> Feedback:
    """Even users click even items, odd users odd ones, and now and then another. Nobody has clicked the last two items."""
    rng = np.random.default_rng(seed)
    alike = (np.arange(USERS)[:, None] - np.arange(ITEMS)) % 2 == 0
    clicks = rng.random((USERS, ITEMS)) < np.where(alike, 0.4, 0.02)
    clicks[0] = clicks[:, 0] = clicks[:, -2:] = False
    later = clicks & (rng.random(clicks.shape) < 0.2)
    likes, held_out = (sparse.csr_array(part.astype(np.float32)) for part in (clicks & ~later, later))
    content = np.stack([np.arange(ITEMS) % 2, np.arange(ITEMS) % 2 - 1], axis=1) + rng.normal(0, 0.2, (ITEMS, 2))
    content[0] = 0
    return Feedback(
        likes, without(held_out, likes), {"image": content.astype(np.float32), "audio": content[:, ::-1].astype(np.float32)}
    )
