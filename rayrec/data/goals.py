"""The labels of a ranker's goals, made of columns of the log: numbers, NaN where an impression has no label.

Shapes: R impressions, G goals.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.config import Config, ConfigError, Goal, Ranker, with_values
from rayrec.config.goals import CLICKED, WATCH_S, WATCH_SHARE
from rayrec.data.errors import DataError
from rayrec.errors import did_you_mean

GOALS = "ranker.goals"


@dataclass(frozen=True)
class LabelRule:
    """What the values of a column must be, so that a goal can be learned from it."""

    goal: str
    column: str
    lowest: float | None  # None: anything, because they are compared with `at_least`
    highest: float | None = None

    @classmethod
    def of(cls, name: str, goal: Goal) -> "LabelRule":
        if goal.at_least is not None:
            return cls(name, goal.label, None)
        return cls(name, goal.label, 0.0, 1.0 if goal.loss == "log" else None)

    def check(self, values: np.ndarray) -> None:
        """Raises `DataError` for a value that the goal can't be learned from."""
        wrong = np.isinf(values)
        if self.lowest is not None:
            wrong |= values < self.lowest
        if self.highest is not None:
            wrong |= values > self.highest
        if wrong.any():
            wanted = "a finite number" if self.lowest is None else "0 or more" if self.highest is None else "from 0 to 1"
            raise DataError(
                f"{GOALS}.{self.goal}: the column {self.column!r} of the log holds {values[wrong][0]:g}, but a label of this goal "
                f"is {wanted}; correct the log, set at_least, or take another loss"
            )


def label_rules(config: Config) -> list[LabelRule]:
    """The rules of all columns, but `clicked`, that the ranker, an arm of a comparison or a trial of a search learns from."""
    rules = {LabelRule.of(name, goal): None for ranker in _rankers(config) for name, goal in ranker.goals.items()}
    return [rule for rule in rules if rule.column != CLICKED]


def _rankers(config: Config) -> Iterator[Ranker]:
    yield config.ranker
    several = [{key: [value] for key, value in values.items()} for values in config.comparison.arms.values()]
    several += [
        *config.comparison.choices.values(),
        {key: each for key, each in config.tuning.space.items() if isinstance(each, list)},
    ]
    for values in several:
        for key, choices in values.items():
            for value in choices if key == GOALS or key.startswith(f"{GOALS}.") else ():
                try:
                    yield with_values(config, {key: value}, GOALS).ranker
                except ConfigError:  # two keys of an arm that go together alone; the arm is checked as a whole where it is trained
                    continue


def label_columns(rules: Iterable[LabelRule]) -> list[str]:
    """The columns, each once, in their order."""
    return list(dict.fromkeys(rule.column for rule in rules))


def refuse_missing(rules: Iterable[LabelRule], columns: list[str]) -> None:
    """Raise `DataError` for a goal whose column the log lacks."""
    for rule in rules:
        if rule.column not in columns and not (rule.column == WATCH_SHARE and WATCH_S in columns):
            what = f"{WATCH_S!r}, of which {WATCH_SHARE!r} is made" if rule.column == WATCH_SHARE else repr(rule.column)
            near = did_you_mean(rule.column, columns)
            raise DataError(f"{GOALS}.{rule.goal}: the log has no column {what}{near}")


def refuse_without_values(rules: Iterable[LabelRule], known: Collection[str]) -> None:
    """Raise `DataError` for a goal of whose column no impression of the training split has a value, as `known` has it."""
    for rule in rules:
        if rule.column not in known:
            raise DataError(
                f"{GOALS}.{rule.goal}: no impression of the training split has a value in the column {rule.column!r}; remove the "
                "goal, or give the log its values"
            )


def numbers_of(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """The values of a column as labels, float32 [R]. Raises `DataError` unless they are numbers or booleans."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan, np.float32)
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{GOALS}: the column {name!r} of the log holds {kind}; a label is a number or a boolean")
    return column.cast(pa.uint8() if pa.types.is_boolean(kind) else kind).cast(pa.float32(), safe=False).to_numpy()


def shares_watched(watch_s: np.ndarray, duration_s: np.ndarray) -> np.ndarray:
    """The share of its video that each impression was watched, at most 1: float32 [R], NaN where the duration is unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.minimum(watch_s / duration_s, 1)
    return np.where(duration_s > 0, shares, np.nan).astype(np.float32)


def durations(catalog: pa.Table) -> np.ndarray:
    """The duration of each item, s: float32 [I], NaN for item 0 and where it is unknown. Raises `DataError` if all are."""
    known = (
        catalog["duration_s"]
        if "duration_s" in catalog.column_names
        else pa.chunked_array([pa.nulls(catalog.num_rows, pa.float32())])
    )
    found = np.append(np.float32(np.nan), known.cast(pa.float32()).to_numpy())
    if not (found > 0).any():
        raise DataError(f"{GOALS}: {WATCH_SHARE!r} needs the duration_s of videos, but the catalog has none")
    return found


def goal_labels(goals: Iterable[Goal], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """The labels float32 [R, G] from the columns that the goals name, `clicked` among them."""
    return np.stack([_label(goal, columns[goal.label].astype(np.float32)) for goal in goals], 1)


def _label(goal: Goal, values: np.ndarray) -> np.ndarray:
    if goal.at_least is None:
        return values
    return np.where(np.isnan(values), np.float32(np.nan), (values >= np.float32(goal.at_least)).astype(np.float32))
