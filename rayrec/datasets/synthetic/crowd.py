"""People of the synthetic world who browse a feed that is not the world's own: they come, choose, refresh the page, and leave.

They belong to the society that the log is from: the same topics are popular, and age groups lean to the same classes. They choose
by the same model (`choice.py`), but they are other people, of whom the log knows nothing. A person

- comes on a day with a probability of their own, lognormal with a median of VISIT: most come rarely, and some nearly every day;
- sees a page at a time, and after it stays for another one with the probability sigmoid(STAY + PLEASED * clicks on the page).

Shapes: P people, B of them at a time, K places of a page.
"""

from dataclasses import dataclass

import numpy as np

from rayrec.config import SimulatedData
from rayrec.datasets.synthetic.choice import Tastes, click_probability, make_tastes, sigmoid, watch_seconds
from rayrec.datasets.synthetic.exposure import HOUR_MS, HOURS, Stock
from rayrec.datasets.synthetic.simulation import Taxonomy, random_of, society

VISIT, VISIT_SD = 0.15, 1.0
STAY, PLEASED = -0.5, 0.5
PEOPLE = 100  # the random streams of a world's crowds; those below make the world


@dataclass(frozen=True)
class Reactions:
    """What people do with a page each."""

    clicked: np.ndarray  # bool [B, K]
    watch_s: np.ndarray  # [B, K], 0 for what is not clicked
    stays: np.ndarray  # bool [B]


@dataclass(frozen=True)
class Crowd:
    """Some people, and the videos as they see them."""

    stock: Stock
    tastes: Tastes
    visit_P: np.ndarray  # the probability that a person comes on a day

    @classmethod
    def of(
        cls, settings: SimulatedData, taxonomy: Taxonomy, stock: Stock, people: int, days: int, seed: int, number: int
    ) -> "Crowd":
        """So many people with tastes for so many days. `number` tells the crowds of one world apart."""
        appeal = society(settings, taxonomy, random_of(seed, 2))[1]
        rng = random_of(seed, PEOPLE + number)
        tastes = make_tastes(appeal[rng.integers(len(appeal), size=people)], taxonomy.secondary, days, rng)
        return cls(stock, tastes, np.minimum(VISIT * rng.lognormal(0, VISIT_SD, people), 0.95))

    def __len__(self) -> int:
        return len(self.visit_P)

    def visitors(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Who comes on a day, int64 [B], and when, in ms since midnight."""
        who = np.flatnonzero(rng.random(len(self)) < self.visit_P)
        hour = rng.choice(len(HOURS), size=len(who), p=HOURS / HOURS.sum())
        return who, hour * HOUR_MS + rng.integers(0, HOUR_MS, len(who))

    def affinity(self, who_B: np.ndarray, day: int, videos_BK: np.ndarray) -> np.ndarray:
        """How much each person likes videos of their own on a day: [B, K]."""
        interest_BKM = self.tastes.interest[who_B[:, None, None], day, self.stock.shown[videos_BK]]
        return np.asarray(np.einsum("bkm,bm->bk", interest_BKM, self.tastes.weight[who_B]))

    def react(self, who_B: np.ndarray, day: int, videos_BK: np.ndarray, rng: np.random.Generator) -> Reactions:
        """What these people do with their pages; -1 is a place without a video."""
        there_BK = videos_BK >= 0
        affinity_BK = self.affinity(who_B, day, videos_BK)
        probability_BK = click_probability(affinity_BK, self.stock.quality[videos_BK], np.arange(videos_BK.shape[1]))
        clicked_BK = (rng.random(videos_BK.shape) < probability_BK) & there_BK
        watch_BK = watch_seconds(affinity_BK, self.stock.duration_s[videos_BK], rng.normal(size=videos_BK.shape))
        stays_B = rng.random(len(who_B)) < sigmoid(STAY + PLEASED * clicked_BK.sum(1))
        return Reactions(clicked_BK, np.where(clicked_BK, watch_BK, 0.0), stays_B & there_BK.any(1))
