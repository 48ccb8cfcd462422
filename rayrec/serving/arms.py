"""Which bundle answers whom: the stable one, or for a share of the users the canary that is on trial beside it."""

import hashlib
from dataclasses import dataclass

from rayrec.serving.recommendation import Recommender

STABLE, CANARY = "stable", "canary"


@dataclass(frozen=True)
class Arms:
    stable: Recommender
    canary: Recommender | None = None
    share: float = 0.0  # of the users, who get the canary

    def arm_of(self, user_id: str) -> tuple[str, Recommender]:
        """The arm of a user and its recommender: the same at every request, on every replica, and drawn anew for another canary."""
        if self.canary is not None and _place(f"{self.canary.bundle.version} {user_id}") < self.share:
            return CANARY, self.canary
        return STABLE, self.stable


def _place(text: str) -> float:
    """A number from 0 to before 1 that looks random and follows from the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
