"""The keys `ranker.goals` and `ranker.goal_network`, and the formula `selection.score` that makes one score of several goals."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rayrec.config.base import Count, Section
from rayrec.errors import did_you_mean

if TYPE_CHECKING:
    import numpy as np

CLICKED, WATCH_SHARE, WATCH_S = "clicked", "watch_share", "watch_s"  # columns of the log; the second is made from the third
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
NAME_RULE = "a name begins with a to z and has up to 32 lower-case letters, digits and _, because formulas contain it"
TERM = re.compile(r"([a-z][a-z0-9_]*)(?:\s*\^\s*(-?(?:\d+(?:\.\d*)?|\.\d+)))?")
MAX_FORMULA, MAX_POWER = 500, 5.0  # characters; and the power of a goal, up or down
NO_GOALS = "; the ranker has no goals (ranker.goals)"
SMALLEST, LARGEST = 1e-6, 1e38  # values of a goal count as no smaller, and scores are no larger, so that all are finite


def _ascending(levels: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in itertools.pairwise(levels)):
        raise ValueError(f"quantiles are in ascending order, not {levels}")
    return levels


Level = Annotated[float, Field(gt=0, lt=1)]


class Goal(Section):
    """Something that the ranker predicts of an impression. A text in place of the section is its `label`."""

    # A column of the log of booleans or numbers, where a null is no label. `watch_share` is watch_s / duration_s, at most 1
    label: str
    at_least: float | None = None  # if set, the label is whether the column has this value or a higher one
    # log: probability of a label from 0 to 1. weighted_logistic and quantiles: expected number, such as seconds watched
    loss: Literal["log", "weighted_logistic", "quantiles"] = "log"
    quantiles: Annotated[list[Level], Field(min_length=2), AfterValidator(_ascending)] = [0.1, 0.25, 0.5, 0.75, 0.9]
    weight: Annotated[float, Field(gt=0)] = 1.0  # of its loss among those of the other goals

    @model_validator(mode="before")
    @classmethod
    def _label_alone(cls, value: Any) -> Any:
        return {"label": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_its_loss(self) -> Self:
        if self.at_least is not None and self.loss != "log":
            raise ValueError(
                f"at_least makes a label of yes and no, which the loss log is for, not {self.loss}; remove one of both"
            )
        return self

    @property
    def outputs(self) -> int:
        """How many numbers the network predicts for it."""
        return len(self.quantiles) if self.loss == "quantiles" else 1


class GoalNetwork(Section):
    """What stands between the last hidden layer of the model and the tower of each goal."""

    kind: Literal["shared_bottom", "mmoe", "ple"] = "mmoe"
    experts: Count = 4  # that all goals share (mmoe, ple)
    own_experts: Count = 1  # of each goal (ple)
    expert_size: Count = 32  # also of the shared bottom
    levels: Count = 1  # of experts (ple)
    tower: list[Count] = [16]  # the hidden layers of each goal's tower


def check_goals(goals: Mapping[str, Goal]) -> None:
    """Raises `ValueError` with a sentence for goals that do not go together."""
    for name in goals:
        if not NAME.fullmatch(name):
            raise ValueError(f"the goal {name!r} needs another name; {NAME_RULE}")
    if goals and not any(is_click(goal) for goal in goals.values()):
        raise ValueError(
            "one of the goals must be the click, because trainings are stopped and compared by it; add click: clicked to the goals"
        )


def is_click(goal: Goal) -> bool:
    """Whether a goal is the probability of a click."""
    return goal.label == CLICKED and goal.at_least is None and goal.loss == "log"


@dataclass(frozen=True)
class Formula:
    """A product of powers of goals, such as `click * finish^0.5 * watch^0.3`."""

    powers: tuple[tuple[str, float], ...]  # each goal once

    @classmethod
    def parse(cls, text: str, goals: Sequence[str]) -> Self:
        """Raises `ValueError` with a sentence for a text that is no such product, and for a goal that is not among these."""
        if len(text) > MAX_FORMULA:
            raise ValueError(f"a formula has at most {MAX_FORMULA} characters, not {len(text)}")
        powers: dict[str, float] = {}
        for factor in text.split("*"):
            match = TERM.fullmatch(factor.strip())
            if match is None:
                raise ValueError(
                    f"{factor.strip()!r} is neither a goal nor a power of one; a formula is a product such as click * finish^0.5"
                )
            name, power = match[1], float(match[2] or 1)
            if name not in goals:
                raise ValueError(f"there is no goal {name!r}{did_you_mean(name, goals) if goals else NO_GOALS}")
            if name in powers:
                raise ValueError(f"{name!r} is in the formula twice; write its powers as one")
            if abs(power) > MAX_POWER:
                raise ValueError(f"the power of {name!r} is {power:g}; a power is from -{MAX_POWER:g} to {MAX_POWER:g}")
            powers[name] = power
        return cls(tuple(powers.items()))

    def __str__(self) -> str:
        return " * ".join(name if power == 1 else f"{name}^{power:g}" for name, power in self.powers)

    def __call__(self, values: "np.ndarray", goals: Sequence[str]) -> "np.ndarray":
        """The score float32 [...] of the values of these goals, float [..., G]. A goal below 1e-6 counts as 1e-6."""
        score = values[..., 0].astype("float64") * 0 + 1
        for name, power in self.powers:
            score *= values[..., goals.index(name)].astype("float64").clip(SMALLEST) ** power
        return score.clip(max=LARGEST).astype("float32")


def scored(values: "np.ndarray", goals: Mapping[str, Goal] | Sequence[str], formula: str | Formula | None) -> "np.ndarray":
    """The scores float32 [...] of candidates: `values` themselves for a ranker without goals, else the formula of their goals.

    Without a formula, the first goal of the ranker is the score. Raises as `Formula.parse` does.
    """
    if not goals:
        return values
    names = list(goals)
    if formula is None:
        return values[..., 0]
    return (Formula.parse(formula, names) if isinstance(formula, str) else formula)(values, names)
