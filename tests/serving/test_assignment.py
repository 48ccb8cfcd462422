"""Which users get which arms: their shares, that layers are independent, and that nobody changes."""

import datetime
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from rayrec.config import Experiment, Recall, Selection
from rayrec.serving.assignment import NOTHING, Experiments, arm_in, label

USERS = [f"u{n}" for n in range(20_000)]
NOW = 1_790_000_000_000
FRESH: dict[str, Any] = {"arms": {"control": 0.5, "more": {"share": 0.3, "changes": {"selection.explore": 0.2}}}}
ORDER: dict[str, Any] = {"arms": {"control": 0.5, "b": 0.25, "c": {"share": 0.25, "changes": {"recall.candidates": 100}}}}


def experiments(**settings: dict[str, Any]) -> Experiments:
    return Experiments({name: Experiment.model_validate(values) for name, values in settings.items()})


def arms(found: Experiments, name: str, users: list[str] = USERS) -> list[str]:
    return [found.of(user, NOW).get(name, "nothing") for user in users]


def test_arms_have_their_shares() -> None:
    counts = Counter(arms(experiments(fresh=FRESH), "fresh"))
    expected = {"control": 0.5, "more": 0.3, "nothing": 0.2}
    assert chisquare([counts[name] for name in expected], np.array([*expected.values()]) * len(USERS)).pvalue > 0.001


def test_layers_are_independent_of_each_other() -> None:
    found = experiments(fresh=FRESH, order=ORDER)
    pairs = Counter(zip(arms(found, "fresh"), arms(found, "order"), strict=True))
    table = [[pairs[one, two] for two in ("control", "b", "c")] for one in ("control", "more", "nothing")]
    assert chi2_contingency(table).pvalue > 0.001


def test_experiments_of_a_layer_share_no_user_and_have_independent_arms() -> None:
    small = {"arms": {"control": 0.2, "more": 0.2}, "layer": "pages"}
    found = experiments(one=small, two=small, three={"arms": {"a": 0.5, "b": 0.5}})
    taken = [set(found.of(user, NOW)) & {"one", "two"} for user in USERS]
    counts = Counter(map(len, taken))
    assert counts.keys() == {0, 1}
    assert chisquare([counts[0], counts[1]], np.array([0.2, 0.8]) * len(USERS)).pvalue > 0.001
    pairs = Counter(zip(arms(found, "one"), arms(found, "three"), strict=True))
    assert chi2_contingency([[pairs[one, two] for two in "ab"] for one in ("control", "more")]).pvalue > 0.001


def test_a_user_keeps_the_arm_when_the_experiment_grows_or_another_one_begins() -> None:
    small = experiments(fresh={"arms": {"control": 0.1, "more": 0.1}})
    large = experiments(fresh={"arms": {"control": 0.4, "more": 0.4}}, order=ORDER)
    before, after = arms(small, "fresh"), arms(large, "fresh")
    assert all(one == two for one, two in zip(before, after, strict=True) if one != "nothing")
    assert Counter(after)["nothing"] < Counter(before)["nothing"]


def test_another_salt_draws_other_users() -> None:
    one, two = (arms(experiments(fresh=FRESH | {"salt": salt}), "fresh") for salt in ("x", "y"))
    both = [pair for pair in zip(one, two, strict=True) if "nothing" not in pair]
    assert 0.4 < sum(first == second for first, second in both) / len(both) < 0.65


def test_an_experiment_ends_at_the_beginning_of_its_day() -> None:
    found = experiments(fresh=FRESH | {"until": datetime.date(2026, 12, 24)})
    end = int(datetime.datetime(2026, 12, 24, tzinfo=datetime.UTC).timestamp() * 1000)
    user = next(user for user in USERS if "fresh" in found.of(user, end - 1))
    assert found.of(user, end) == {}


def test_assignments_are_pinned() -> None:
    """A release that assigned users otherwise would spoil every experiment that is under way."""
    found = experiments(fresh=FRESH, order=ORDER)
    assert [label("stable", found.of(user, NOW)) for user in ("ann", "bob", "")] == [
        "stable fresh=more order=c",
        "stable fresh=more order=c",
        "stable fresh=control order=b",
    ]


def test_settings_of_all_combinations() -> None:
    found = experiments(fresh=FRESH, order=ORDER).combinations(Recall(), Selection())
    assert found[NOTHING] == (Recall(), Selection())
    both = frozenset({("fresh", "more"), ("order", "c")})
    assert found[both] == (Recall(candidates=100), Selection(explore=0.2))
    assert len(found) == 4


def test_every_assignment_has_its_settings() -> None:
    found = experiments(fresh=FRESH, order=ORDER)
    combinations = found.combinations(Recall(), Selection())
    changes = {found.change(found.of(user, NOW)) for user in USERS[:1000]}
    assert changes == set(combinations)


@pytest.mark.parametrize(
    ("text", "arm"),
    [(None, None), ("stable", None), ("canary fresh=more", "more"), ("stable order=b fresh=c", "c"), ("fresh=x", None)],
)
def test_an_arm_is_read_as_it_was_written(text: str | None, arm: str | None) -> None:
    assert arm_in(text, "fresh") == arm
    assert arm_in(label("stable", {"order": "b", "fresh": "more"}), "fresh") == "more"
