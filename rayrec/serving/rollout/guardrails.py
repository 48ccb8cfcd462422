"""Whom a canary and the stable bundle failed: the users whose pages were not made, and those who waited long for one.

Every replica of the service notes them, and whoever decides on the canary joins what all replicas noted. A user counts once,
however often he tries again, since it is users who are drawn into arms. Users are known by hashes, so that no id is kept.
"""

import hashlib
from dataclasses import dataclass, field

FAILED, SLOW = "failed", "slow"
MAX_NOTED = 10_000  # users of each kind; what so many do not prove, more will not

Users = dict[str, set[int]]  # arm -> users


@dataclass
class Guardrails:
    """Of a replica since it began to serve a canary, or of several replicas."""

    canary: str | None = None  # the version of its bundle; without a canary, nothing is noted
    users: dict[str, Users] = field(default_factory=lambda: {FAILED: {}, SLOW: {}})

    def note(self, kind: str, arm: str, user_id: str) -> None:
        """Notes what a user of an arm suffered: `FAILED` or `SLOW`."""
        noted = self.users[kind]
        if self.canary is not None and sum(map(len, noted.values())) < MAX_NOTED:  # of both arms together: neither may go on alone
            noted.setdefault(arm, set()).add(int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "big"))

    def add(self, other: "Guardrails") -> None:
        """Adds what another replica noted, or the same one later, if it is about the same canary."""
        if other.canary == self.canary:
            for kind, arms in other.users.items():
                for arm, users in arms.items():
                    self.users[kind].setdefault(arm, set()).update(users)

    def count(self, kind: str, arm: str) -> int:
        """How many users of an arm suffered it."""
        return len(self.users[kind].get(arm, ()))
