"""A page: the answer to a request for recommendations, as `Recommender` makes it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rayrec.config import Formula
from rayrec.recall.exploration import Draw
from rayrec.recall.feedback import Feedback
from rayrec.recall.pipeline import Trace
from rayrec.recall.source import NO_TOPIC

AGAIN = "again"  # the label of videos that the user has seen, on the pages of users who have seen all others


class Visit(NamedTuple):
    """What a caller says of the visit that a page belongs to."""

    session_id: str | None = None
    page_number: int | None = None  # the number of the page in the session


NO_VISIT = Visit()


@dataclass(frozen=True)
class Page:
    """The answer to a request, the best video first."""

    request_id: str
    at: int  # UTC ms
    items: np.ndarray  # int32 [k]
    why: np.ndarray  # str [k]: the label of the source that brought each video
    topics: np.ndarray  # int32 [k]: the topic that brought each video, NO_TOPIC where none did
    scores: np.ndarray  # float32 [k]: click probabilities, what the formula makes of goals, or what `rank_in_order` gives
    trace: Trace
    arm: str | None = None  # the arms that answered, as `assignment.label` writes them
    context: str | None = None  # of the request, as JSON
    moved: np.ndarray | None = None  # float64: the logarithms of what the user's feedback did to the scores of all candidates
    feedback: Feedback | None = None  # None if nothing that the user said has an effect
    logged: bool = True  # whether the store has the videos as shown; otherwise the next page may hold them again
    visit: Visit = NO_VISIT
    draws: list[Draw] | None = None  # of the places that explored; `rows` are items here. None where no place may explore
    goals: np.ndarray | None = None  # float32 [k, G]: the value of each goal, if the ranker has several
    formula: Formula | None = None  # that made scores of them; None: the first goal is the score

    def propensities(self) -> list[float] | None:
        """The probability of each video to be shown in its place, 1 where nothing was drawn. None where no place may explore."""
        if self.draws is None:
            return None
        odds = {draw.position: draw.propensity for draw in self.draws}
        return [odds.get(position, 1.0) for position in range(len(self.items))]


def with_seen(page: Page, items: np.ndarray, scores: np.ndarray, goals: np.ndarray | None) -> Page:
    """A page with items behind its own that the user has seen before."""
    both = goals if page.goals is None or goals is None else np.concatenate([page.goals, goals])
    return replace(
        page,
        items=np.append(page.items, items),
        why=np.append(page.why, np.full(len(items), AGAIN)),
        topics=np.append(page.topics, np.full(len(items), NO_TOPIC, np.int32)),
        scores=np.append(page.scores, scores),
        goals=both,
    )
