"""Simulated people on a platform that explores: the log of what was drawn, and the truth of what another ranker would be clicked.

Both are needed to see whether an estimate from the log is right. In the log, Thompson sampling draws the videos of the places that
explore, and the truth of each place is the probability that this person clicks what the other ranker would have put there. On a
second platform, the other ranker may choose itself, for other people of the same world; everything else of a page is made in the
same way. What they click there also depends on what it showed them before.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rayrec.config import scored
from rayrec.datasets.synthetic.choice import click_probability
from rayrec.datasets.synthetic.crowd import Reactions
from rayrec.evaluation.ab_test import Platform
from rayrec.evaluation.drawn_places import DrawnPlaces, Place, greedy
from rayrec.ranking.scorer import Scorer
from rayrec.recall.exploration import Draw
from rayrec.recall.pipeline import ScoredCandidates
from rayrec.recall.selection import Odds


class ExploringPlatform(Platform):
    """Keeps what was drawn, and what another ranker (over the same items) thinks of it."""

    def __init__(self, *platform: Any, other: Scorer, chooses: bool, formula: str | None = None) -> None:
        """`platform` is what `Platform` needs. If the other ranker `chooses`, it takes the place of Thompson sampling.

        A ranker with goals orders videos by the `formula` of these, or by the first one.
        """
        super().__init__(*platform)
        self.other, self.chooses, self.formula = other, chooses, formula
        self.places: list[Place] = []
        # Those of the other ranker of each person's candidates, and the clicks that it expects.
        self._scores: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._drawn: list[tuple[int, Draw, np.ndarray]] = []  # with the items that competed, of pages that wait for reactions

    def drawn(self) -> DrawnPlaces:
        return DrawnPlaces.of(self.places)

    def _odds(
        self, who_B: np.ndarray, histories: list[np.ndarray], times: list[np.ndarray], at_B: np.ndarray, candidates_BN: np.ndarray
    ) -> Sequence[Odds | None]:
        values = self.other.score([""] * len(who_B), histories, times, at_B, candidates_BN)
        goals = self.other.settings.goals
        scores_BN = scored(values, goals, self.formula)
        expected_BN = values[..., self.other.settings.click_goal] if goals else values
        self._scores |= dict(zip(who_B.tolist(), zip(scores_BN, expected_BN, strict=True), strict=True))
        if not self.chooses:
            return super()._odds(who_B, histories, times, at_B, candidates_BN)
        return [partial(_choice, scores) for scores in scores_BN]

    def _visits(self, name: str, who: np.ndarray, at: np.ndarray, day: int, *more: Any) -> Any:
        self._day = day
        return super()._visits(name, who, at, day, *more)

    def _show(self, person: int, page: ScoredCandidates) -> None:
        self._drawn += [(person, draw, page.candidates.items[draw.rows]) for draw in page.draws]

    def _remember(
        self, who_B: np.ndarray, at_B: np.ndarray, items_BK: np.ndarray, reactions: Reactions, did_P4: np.ndarray
    ) -> None:
        super()._remember(who_B, at_B, items_BK, reactions, did_P4)
        row_of = {person: row for row, person in enumerate(who_B.tolist())}
        for person, draw, items in self._drawn:
            clicked = bool(reactions.clicked[row_of[person], draw.position])
            scores, expected = (each[draw.rows] for each in self._scores[person])
            truth = float(greedy(scores) @ self._probability(person, items, draw.position))
            self.places.append(Place(person, clicked, draw.propensity, draw.chosen, scores, expected, truth))
        self._scores, self._drawn = {}, []

    def _probability(self, person: int, items: np.ndarray, position: int) -> np.ndarray:
        """The probability that the person clicks each of these items if it is the one at this position: [A]."""
        affinity = self.crowd.affinity(np.array([person]), self._day, items[None] - 1)[0]
        return click_probability(affinity, self.crowd.stock.quality[items - 1], position)


def _choice(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The odds of these candidates where the one with the highest score is chosen."""
    return greedy(scores[rows])
