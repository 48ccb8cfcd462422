"""The key `serving.experiments`: which users get pages that are made otherwise, and what differs."""

import datetime
import re
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from rayrec.config.base import Count, Section, dump
from rayrec.config.recall import Recall, Selection
from rayrec.config.wording import wording
from rayrec.errors import did_you_mean

NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
NAME_RULE = "a name has 1 to 32 letters, digits, _ and -, because it becomes a part of labels"
OF_RECALL = ("sources", "clicks", "topics", "candidates", "feedback")  # what is read for each request
CHANGEABLE = [*(f"recall.{name}" for name in OF_RECALL), *(f"selection.{name}" for name in Selection.model_fields)]
MAX_COMBINATIONS = 64  # of arms of different layers; pages of each can be made at once


class ExperimentArm(Section):
    """A number in place of the section is its `share`."""

    share: Annotated[float, Field(gt=0, le=1)]  # of the users
    changes: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, value: Any) -> Any:
        return {"share": value} if isinstance(value, int | float) else value


class Experiment(Section):
    """A part of the users is divided into arms. The first arm is the control, whose pages are those of the config."""

    arms: dict[str, ExperimentArm]
    salt: str | None = None  # another salt draws other users into the arms; the default is the experiment's name
    until: datetime.date | None = None  # from the beginning of this day (UTC) on, everybody gets the control's pages
    layer: str | None = None  # the default is the experiment's name
    users: Count = 10_000  # how many are planned for two arms together; intervals are the narrowest there

    @model_validator(mode="after")
    def _arms_fit(self) -> "Experiment":
        if len(self.arms) < 2:
            raise ValueError("an experiment has two arms or more, the control first, as in arms={control: 0.5, more: {share: 0.5}}")
        for name, arm in self.arms.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"the arm {name!r} needs another name; {NAME_RULE}")
            for key in arm.changes:
                _check_key(f"arms.{name}.changes", key)
        control, first = next(iter(self.arms.items()))
        if first.changes:
            raise ValueError(
                f"the first arm, {control!r}, is the control, with the pages of the config; put its changes into the config, or "
                "put another arm first"
            )
        if self.share > 1 + 1e-9:
            raise ValueError(f"the shares of the arms add up to {self.share:g}; make them 1 or less")
        return self

    @property
    def share(self) -> float:
        """Of all users, those who take part."""
        return sum(arm.share for arm in self.arms.values())

    @property
    def control(self) -> str:
        return next(iter(self.arms))


def layers_of(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, Experiment]]:
    """The experiments by layer and name, in their order. No user takes part in two of a layer."""
    layers: dict[str, dict[str, Experiment]] = defaultdict(dict)
    for name, experiment in experiments.items():
        layers[experiment.layer or name][name] = experiment
    return dict(layers)


def check_experiments(experiments: Mapping[str, Experiment]) -> None:
    """Raises `ValueError` with a sentence for experiments that do not go together."""
    changed: dict[str, tuple[str, str]] = {}  # key -> the first experiment that changes it, and its layer
    layers = layers_of(experiments)
    for layer, members in layers.items():
        total = sum(experiment.share for experiment in members.values())
        if total > 1 + 1e-9:
            raise ValueError(
                f"the experiments {', '.join(members)} are of the layer {layer!r}, in which a user takes part in one at most, but "
                f"their shares add up to {total:g}; make them 1 or less, or put an experiment into another layer"
            )
        for name, experiment in members.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"the experiment {name!r} needs another name; {NAME_RULE}")
            for key in {key for arm in experiment.arms.values() for key in arm.changes}:
                other, its_layer = changed.setdefault(key, (name, layer))
                if its_layer != layer:
                    raise ValueError(
                        f"the experiments {other} and {name} both change {key}, so that a user of both would have only one; "
                        "put them into one layer"
                    )
    combinations = prod(1 + sum(len(each.arms) - 1 for each in members.values()) for members in layers.values())
    if combinations > MAX_COMBINATIONS:
        raise ValueError(f"the arms of all layers can be combined in {combinations} ways; at most {MAX_COMBINATIONS} are served")


def changed_settings(recall: Recall, selection: Selection, changes: Mapping[str, Any]) -> tuple[Recall, Selection]:
    """The settings of an arm. Raises `ValueError` with a sentence for a value that does not fit."""
    trees = {"recall": dump(recall), "selection": dump(selection)}
    for key, value in changes.items():
        section, name = key.split(".")
        trees[section][name] = value
    try:
        return Recall.model_validate(trees["recall"]), Selection.model_validate(trees["selection"])
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join([error.title.lower(), *(str(part) for part in problem["loc"])])
        raise ValueError(f"{where}: {wording(problem)} (got {repr(problem['input'])[:80]})") from error


def _check_key(place: str, key: str) -> None:
    if key in CHANGEABLE:
        return
    section, _, name = key.partition(".")
    if section == "recall" and name in Recall.model_fields:
        raise ValueError(
            f"{place}: {key} can't differ between arms, because they share the queues, which are made with it; of recall, only "
            f"{', '.join(OF_RECALL)} can"
        )
    raise ValueError(f"{place}: unknown key {key!r}{did_you_mean(key, CHANGEABLE)}")
