"""What made-up users of experiments and canaries do."""

from typing import Any

import numpy as np

from rayrec.config import Experiment
from rayrec.serving.assignment import Experiments, label
from rayrec.serving.rollout.arms import CANARY, STABLE
from rayrec.serving.state.store import Event

NOW = 1_790_000_000_000
HALVES = {"arms": {"control": 0.5, "more": {"share": 0.5, "changes": {"selection.explore": 0.2}}}, "users": 1000}
EXPERIMENT = Experiment.model_validate(HALVES)
EXPERIMENTS = Experiments({"fresh": EXPERIMENT})


def page_of(user: str, request: str, arm: str, at: int = NOW, videos: int = 3) -> list[Event]:
    return [Event(f"{request}-{n}", user, f"v{n}", "impression", at, request, arm=arm) for n in range(videos)]


def outcome(user: str, request: str | None, kind: str, video: str = "v0", **fields: Any) -> Event:
    number = outcome.count = getattr(outcome, "count", 0) + 1  # type: ignore[attr-defined]
    return Event(f"o{number}", user, video, kind, fields.pop("at", NOW + 1000), request, **fields)  # type: ignore[arg-type]


def browse(rng: np.random.Generator, users: int, better: float = 0.0, run: int = 0) -> list[Event]:
    """Users who are assigned as in the service come back for another page; the arm `more` is clicked more by `better`."""
    events = []
    liking = rng.beta(2, 8, users)
    for visit in range(2):
        clicked = rng.random((users, 3))
        for user in range(users):
            user_id, request = f"{run} u{user}", f"{run} {user} {visit}"
            assigned = EXPERIMENTS.of(user_id, NOW)
            events += page_of(user_id, request, label("stable", assigned), NOW + visit)
            likes = liking[user] * (1 + better * (assigned["fresh"] == "more"))
            for n in np.flatnonzero(clicked[user] < likes).tolist():
                events.append(outcome(user_id, request, "click", f"v{n}"))
                events.append(outcome(user_id, request, "watch", f"v{n}", watch_s=float(rng.gamma(2, 5))))
    return events


def canary_events(users: int, rate: float, answered: float = 1.0, seed: int = 0) -> list[Event]:
    """A fifth of the users have a canary, who click with another rate than the others (0.3), and who may get no answer."""
    rng, events = np.random.default_rng(seed), list[Event]()
    for user in (f"{seed} u{number}" for number in range(users)):
        canary = rng.random() < 0.2
        if canary and rng.random() > answered:
            continue
        events += page_of(user, f"{user} r", f"{CANARY if canary else STABLE} fresh=more")
        for n in np.flatnonzero(rng.random(3) < (rate if canary else 0.3)).tolist():
            events.append(outcome(user, f"{user} r", "click", f"v{n}"))
            events.append(outcome(user, f"{user} r", "watch", f"v{n}", watch_s=5 + 5 * rng.random()))
    return events
