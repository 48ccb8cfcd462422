"""Which bundle answers whom: the stable one, or for a share of the users the canary that is on trial beside it.

`Rollout` is what an operator asks for, `Arms` what a replica of the service has, `Report` what the replica says of both.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rayrec.serving.recommender import Recommender

STABLE, CANARY = "stable", "canary"


class Canary(BaseModel):
    """A bundle on trial and its share of the users."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    share: Annotated[float, Field(gt=0, lt=1)]


class Rollout(BaseModel):
    """The deployments' `user_config`: which bundles are to be served. Without a version, the workspace's current one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str | None = None
    canary: Canary | None = None

    def versions(self) -> set[str]:
        """Those that it names."""
        return {version for version in (self.version, self.canary and self.canary.version) if version}


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

    def named(self) -> dict[str, Recommender]:
        """The recommenders by the names of their arms."""
        return {STABLE: self.stable} | ({CANARY: self.canary} if self.canary is not None else {})


@dataclass(frozen=True)
class Report:
    """What one replica of `TopicRecall` says of itself."""

    replica: str
    node: str  # its address
    rollout: Rollout  # the last one that it was given
    switching: bool  # it is loading what the rollout names
    refused: str  # why it can't carry it out; "" when it does
    bundles: dict[str, str]  # arm -> version
    share: float  # of the users who get the canary
    queue_age_s: float
    impressions: int  # of all users, in the last hour or two
    clicks: int
    refusals: int  # since it started


@dataclass(frozen=True)
class RankerReport:
    """What one replica of `NeuralRanker` says of itself."""

    replica: str
    node: str
    bundles: list[str]  # the versions that it has loaded


def verdict(reports: Iterable[Report], rollout: Rollout) -> str | None:
    """Whether replicas carry out a rollout: None while one of them is still at it, "" when all do, else why one refuses it."""
    reports = list(reports)
    told = [report for report in reports if report.rollout == rollout and not report.switching]
    for report in told:
        if report.refused:
            return report.refused
    return "" if reports and len(told) == len(reports) else None


def _place(text: str) -> float:
    """A number from 0 to before 1 that looks random and follows from the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
