"""Which user has which arms of the experiments, and how the arms are written in events.

A user's arms depend on the id and the config alone, so that they are the same at every request and on every replica, for users who
are unknown or forgotten too. Each layer divides the users anew: what a user has in one says nothing about another.

The `arm` of an impression names the bundle first, as it did before there were experiments, and then the arms: `stable`,
`canary`, `stable fresh=more`, `stable fresh=control order=b`.
"""

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from rayrec.config import Experiment, Recall, Selection, changed_settings, layers_of

Assignment = dict[str, str]  # experiment -> arm, of the experiments in which a user takes part
Change = frozenset[tuple[str, str]]  # the experiments and arms of an assignment that change pages
NOTHING: Change = frozenset()
BUNDLE = ""  # in place of an experiment's name: which bundle made the page


@dataclass(frozen=True)
class Experiments:
    """The experiments of a config."""

    settings: Mapping[str, Experiment]

    @cached_property
    def _layers(self) -> dict[str, dict[str, Experiment]]:
        return layers_of(self.settings)

    def of(self, user_id: str, now: int) -> Assignment:
        """A user's arms at a time (UTC ms). Experiments that are over have none."""
        found: Assignment = {}
        for layer, members in self._layers.items():
            place = unit_hash(f"layer {layer} {user_id}")
            for name, experiment in members.items():
                if 0 <= place < experiment.share and is_running(experiment, now):
                    found[name] = _arm(experiment, unit_hash(f"arm {experiment.salt or name} {user_id}"))
                place -= experiment.share
        return found

    def change(self, assignment: Mapping[str, str]) -> Change:
        """What is to be told a `Recommender`, so that it makes the pages of these arms."""
        return frozenset((name, arm) for name, arm in assignment.items() if self.settings[name].arms[arm].changes)

    def combinations(self, recall: Recall, selection: Selection) -> dict[Change, tuple[Recall, Selection]]:
        """The settings of all changes that a user may have; those of the config for `NOTHING`."""
        of_layers = []
        for members in self._layers.values():
            arms = [(name, arm) for name, experiment in members.items() for arm in experiment.arms]
            of_layers.append({NOTHING, *(self.change({name: arm}) for name, arm in arms)})
        found = {}
        for parts in product(*of_layers):
            change = NOTHING.union(*parts)
            values = {key: value for name, arm in change for key, value in self.settings[name].arms[arm].changes.items()}
            found[change] = changed_settings(recall, selection, values)
        return found


NO_EXPERIMENTS = Experiments({})


def is_running(experiment: Experiment, now: int) -> bool:
    """Whether it is not over yet (UTC ms)."""
    if experiment.until is None:
        return True
    end = datetime.datetime.combine(experiment.until, datetime.time(), datetime.UTC)
    return now < end.timestamp() * 1000


def label(bundle: str, assignment: Mapping[str, str]) -> str:
    """How the arms of a page are written in its events: that of its bundle, and those of experiments."""
    return " ".join([bundle, *(f"{name}={arm}" for name, arm in assignment.items())])


def arm_in(text: str | None, experiment: str) -> str | None:
    """The arm of an experiment, or of the `BUNDLE`, in the `arm` of an event; None for an event without it."""
    if experiment == BUNDLE:
        return (text or "").split(" ")[0] or None
    return next((part.partition("=")[2] for part in _parts(text) if part.startswith(f"{experiment}=")), None)


def _parts(text: str | None) -> Iterable[str]:
    return (text or "").split(" ")[1:]


def _arm(experiment: Experiment, place: float) -> str:
    """The arm at a place in [0, 1), which the arms divide by their shares."""
    place *= experiment.share
    for name, arm in experiment.arms.items():
        if place < arm.share:
            return name
        place -= arm.share
    return name  # where rounding leaves nothing


def unit_hash(text: str) -> float:
    """A number in [0, 1) that looks random but depends on the text alone, so that all replicas draw the same."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / 2**56
