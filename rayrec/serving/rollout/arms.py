"""Which bundle answers which user: the stable one or, for a share of the users, the canary, a bundle on trial.

A `Rollout` is what an operator asks for, `Arms` is what a replica of the service has loaded, and a `Report` is what the replica
says about both.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rayrec.serving.assignment import unit_hash
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.guardrails import Guardrails

STABLE, CANARY = "stable", "canary"


class Canary(BaseModel):
    """A bundle on trial, and the share of the users who get it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    share: Annotated[float, Field(gt=0, lt=1)]


class Rollout(BaseModel):
    """The deployments' `user_config`: which bundles are to be served. Without a version, the workspace's current one is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str | None = None
    canary: Canary | None = None

    def versions(self) -> set[str]:
        """The versions that it names."""
        return {version for version in (self.version, self.canary and self.canary.version) if version}


@dataclass(frozen=True)
class Arms:
    """The recommenders of a replica: the stable one, and the canary's if there is one."""

    stable: Recommender
    canary: Recommender | None = None
    share: float = 0.0  # of the users who get the canary

    @cached_property
    def guardrails(self) -> Guardrails:
        """Whom they failed."""
        return Guardrails(self.canary.bundle.version if self.canary is not None else None)

    def arm_of(self, user_id: str) -> tuple[str, Recommender]:
        """The name of a user's arm and its recommender.

        A user has the same arm at every request and on every replica. Each canary gets another selection of users.
        """
        if self.canary is not None and unit_hash(f"{self.canary.bundle.version} {user_id}") < self.share:
            return CANARY, self.canary
        return STABLE, self.stable

    def named(self) -> dict[str, Recommender]:
        """The recommenders by the names of their arms."""
        return {STABLE: self.stable} | ({CANARY: self.canary} if self.canary is not None else {})


@dataclass(frozen=True)
class Report:
    """What one replica of `TopicRecall` says about itself."""

    replica: str
    node: str  # its address
    rollout: Rollout  # the last one that it was given
    switching: bool  # whether it is still loading what the rollout names
    refused: str  # why it can't carry out the rollout, or "" if it can
    bundles: dict[str, str]  # arm -> version
    share: float  # of the users who get the canary
    queue_age_s: float
    impressions: int  # of all users, in the last one to two hours
    clicks: int
    refusals: int  # since it started
    guardrails: Guardrails = field(default_factory=Guardrails)  # whom its arms failed since it has them


@dataclass(frozen=True)
class RankerReport:
    """What one replica of `NeuralRanker` says about itself."""

    replica: str
    node: str
    bundles: list[str]  # the versions that it has loaded


def verdict(reports: Iterable[Report], rollout: Rollout) -> str | None:
    """Whether replicas carry out a rollout: None while one of them is still switching, "" if all do, else why one refuses."""
    reports = list(reports)
    decided = [report for report in reports if report.rollout == rollout and not report.switching]
    for report in decided:
        if report.refused:
            return report.refused
    return "" if reports and len(decided) == len(reports) else None
