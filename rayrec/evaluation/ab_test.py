"""An A/B test on simulated people, who browse what the real recall pipeline and ranker recommend.

Pu et al. ("Multimodal Topic Learning for Video Recommendation", see docs/papers.md) divide their users into equal groups, measure
the activity of each for a week in which all have the same recommender, choose those that are most alike, and give each of them an
arm for another week. Their measures are of all that the people of a group do in a week:

    UVD   seconds watched by all
    UAVD  seconds watched by each person who came
    AVD   seconds watched of each video that was clicked
    ART   pages (refreshes) of each person who came

A platform has some of the people, with all groups among them. Counters and queues are its own and follow every midnight what its
people did; the ranker stays as it is.

Shapes: P people, B of them at a time, K places of a page, I items.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.config import Recall, scored
from rayrec.data.context import DAY_MS
from rayrec.datasets.synthetic.crowd import Crowd, Reactions
from rayrec.evaluation.experiments.gains import Gain, gain
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.pages import Counters
from rayrec.ranking.scorer import Scorer
from rayrec.recall.exclusions import Exclusions
from rayrec.recall.items import count_by_user_and_day
from rayrec.recall.pipeline import RecallPipeline, ScoredCandidates, Trace
from rayrec.recall.queues import TopicQueues
from rayrec.recall.selection import Odds
from rayrec.recall.source import Query

WATCH_S, VIDEOS, PAGES, CAME = range(4)  # the columns of what a person did
# Each measure is the sum of a column over people, divided by the sum of another, or by their number (None).
MEASURES: dict[str, tuple[int, int | None]] = {
    "UVD": (WATCH_S, None),
    "UAVD": (WATCH_S, CAME),
    "AVD": (WATCH_S, VIDEOS),
    "ART": (PAGES, CAME),
}
PAUSE_MS = 120_000  # between two pages
AT_ONCE = 512  # people for whom the ranker scores together


@dataclass(frozen=True)
class Arm:
    """A recommender."""

    pipeline: RecallPipeline
    scorer: Scorer
    recall: Recall
    goals: Sequence[str] = ()  # of the scorer, if it has several
    formula: str | None = None  # of the goals


@dataclass
class Memory:
    """What a platform knows of its people and videos."""

    seen: np.ndarray  # bool [P, I]
    clicked: np.ndarray  # int32 [P, C], the latest clicks, 0 for none, the newest last
    clicked_at: np.ndarray  # int64 [P, C], UTC ms
    counters: Counters

    @classmethod
    def new(cls, people: int, items: int, clicks: int, counters: Counters) -> "Memory":
        nothing = np.zeros((people, clicks), np.int32)
        return cls(np.zeros((people, items), bool), nothing, nothing.astype(np.int64), counters)

    def arrays(self) -> dict[str, np.ndarray]:
        found = {name: getattr(self, name) for name in ("seen", "clicked", "clicked_at")}
        return found | {"exposures": self.counters.exposures, "clicks": self.counters.clicks}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Memory":
        counters = Counters(arrays["exposures"], arrays["clicks"])
        return cls(arrays["seen"], arrays["clicked"], arrays["clicked_at"], counters)


class Platform:
    """Shows pages to a crowd. Item i of the recommenders is video i - 1 of the crowd."""

    def __init__(
        self, crowd: Crowd, arms: Mapping[str, Arm], memory: Memory, available: np.ndarray, begin: int, k: int, seed: int
    ) -> None:
        """`available` masks the items that may be shown, bool [I]. The crowd's first day begins at `begin` (UTC ms)."""
        self.crowd, self.arms, self.memory, self.available = crowd, arms, memory, available
        self.begin, self.k, self.seed = begin, k, seed

    def browse(self, days: Sequence[int], arm_of_P: np.ndarray) -> np.ndarray:
        """Days of the crowd on which each person has the arm of this name; nobody comes whose arm is "". What each did: [P, 4]."""
        did_P4 = np.zeros((len(self.crowd), 4))
        for day in days:
            rng = np.random.default_rng((self.seed, day))
            who, at = self.crowd.visitors(rng)
            visits = [self._visits(name, who[mine], at[mine], day, did_P4, rng) for name, mine in _by_arm(arm_of_P[who])]
            log = list(itertools.chain(*visits))
            if not log:  # nobody came
                continue
            user, item, clicked = (np.concatenate(column) for column in zip(*log, strict=True))
            times = np.full(len(user), self.begin + day * DAY_MS)
            items = len(self.available)
            self.memory.counters += Counters(*count_by_user_and_day(item, user + 1, times, clicked, items))
        return did_P4

    def _visits(
        self, name: str, who: np.ndarray, at: np.ndarray, day: int, did_P4: np.ndarray, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The visits of a day to one arm: the person, item and click of each impression, page after page."""
        arm, counters, found = self.arms[name], self.memory.counters, []
        queues = TopicQueues.build(
            arm.pipeline.selector.item_topics, counters.exposures, counters.clicks, self.available, arm.recall, rng
        )
        did_P4[who, CAME] = 1
        at = self.begin + day * DAY_MS + at
        while len(who):
            items_BK = np.concatenate([self._pages(arm, queues, who[some], at[some], rng) for some in _slices(len(who), AT_ONCE)])
            reactions = self.crowd.react(who, day, items_BK - 1, rng)
            self._remember(who, at, items_BK, reactions, did_P4)
            there_BK = items_BK > 0
            person_BK = np.broadcast_to(who[:, None], items_BK.shape)
            found.append((person_BK[there_BK], items_BK[there_BK], reactions.clicked[there_BK]))
            who, at = who[reactions.stays], at[reactions.stays] + PAUSE_MS
        return found

    def _pages(self, arm: Arm, queues: TopicQueues, who_B: np.ndarray, at_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The items of each person's page, int32 [B, K], 0 where there are no more."""
        memory, count = self.memory, max(self.k, arm.recall.candidates)
        masks, queries, found = memory.clicked[who_B] > 0, [], []
        histories = [memory.clicked[person][mask] for person, mask in zip(who_B, masks, strict=True)]
        times = [memory.clicked_at[person][mask] for person, mask in zip(who_B, masks, strict=True)]
        for row, person in enumerate(who_B):
            exclusions = Exclusions.of(np.flatnonzero(memory.seen[person]).astype(np.int32))
            queries.append(Query("", histories[row], times[row], exclusions, int(rng.integers(2**31))))
            found.append(arm.pipeline.candidates(queries[-1], queues, count, Trace()))
        candidates_BN = np.zeros((len(who_B), max(map(len, found), default=0)), np.int32)
        for row, each in enumerate(found):
            candidates_BN[row, : len(each)] = each.items
        scores_BN = arm.scorer.score([""] * len(who_B), histories, times, at_B, candidates_BN)
        scores_BN = scored(scores_BN, arm.goals, arm.formula)
        odds = self._odds(who_B, histories, times, at_B, candidates_BN)
        pages_BK = np.zeros((len(who_B), self.k), np.int32)
        for row, (query, each) in enumerate(zip(queries, found, strict=True)):
            page = arm.pipeline.selected(query, queues, each, scores_BN[row, : len(each)], self.k, Trace(), odds[row])
            pages_BK[row, : len(page.rows)] = page.page
            self._show(int(who_B[row]), page)
        return pages_BK

    def _odds(
        self, who_B: np.ndarray, histories: list[np.ndarray], times: list[np.ndarray], at_B: np.ndarray, candidates_BN: np.ndarray
    ) -> Sequence[Odds | None]:
        """The odds at the places of each person's page that explore; None for those of Thompson sampling."""
        return [None] * len(who_B)

    def _show(self, person: int, page: ScoredCandidates) -> None:
        """Is told of each page before it is shown."""

    def _remember(
        self, who_B: np.ndarray, at_B: np.ndarray, items_BK: np.ndarray, reactions: Reactions, did_P4: np.ndarray
    ) -> None:
        memory = self.memory
        memory.seen[who_B[:, None], items_BK] = True
        memory.seen[:, 0] = False  # item 0 is a place without a video
        for person, at, items, clicked in zip(who_B, at_B, items_BK, reactions.clicked, strict=True):
            new = items[clicked]
            if len(new):
                memory.clicked[person] = np.append(memory.clicked[person], new)[len(new) :]
                memory.clicked_at[person] = np.append(memory.clicked_at[person], np.full(len(new), at))[len(new) :]
        did_P4[who_B, WATCH_S] += reactions.watch_s.sum(1)
        did_P4[who_B, VIDEOS] += reactions.clicked.sum(1)
        did_P4[who_B, PAGES] += 1


def groups_of(people: int, groups: int, seed: int) -> np.ndarray:
    """The group of each person: int64 [P], drawn so that the groups are of equal size, but for one person at most."""
    return np.random.default_rng(seed).permutation(np.arange(people) % groups)


def moments_by_group(did_P4: np.ndarray, group_P: np.ndarray, groups: int, before_P4: np.ndarray | None = None) -> list[Moments]:
    """Of each group: the numbers of `MEASURES` in pairs and, if it is given, what the people did before."""
    ones = np.ones(len(did_P4))
    pairs = [ones if column is None else did_P4[:, column] for measure in MEASURES.values() for column in measure]
    rows = np.stack(pairs, 1) if before_P4 is None else np.hstack([np.stack(pairs, 1), before_P4[:, : CAME + 1]])
    return [Moments.of(rows[group_P == group]) for group in range(groups)]


def gains_of(control: Moments, treatment: Moments, adjusted: bool) -> dict[str, Gain]:
    """The gain of each measure; `adjusted` by what the people did before (CUPED)."""
    found = {}
    for number, name in enumerate(MEASURES):
        columns = [2 * number, 2 * number + 1, *(range(2 * len(MEASURES), len(control.mean)) if adjusted else ())]
        found[name] = gain(*(_columns(each, columns) for each in (control, treatment)))
    return found


def measured(moments: Moments) -> dict[str, float]:
    """The value of each measure, UVD as seconds for each person of the group, whether they came or not."""
    return {name: float(moments.mean[2 * number] / moments.mean[2 * number + 1]) for number, name in enumerate(MEASURES)}


def nearest_groups(groups: Sequence[Moments], count: int) -> tuple[int, ...]:
    """The groups that differ least in the four measures, in units of the deviation over all groups.

    Of several groups, the largest distance between two counts.
    """
    values_GM = np.array([list(measured(each).values()) for each in groups])
    spread_M = values_GM.std(0)
    scaled_GM = values_GM / np.where(spread_M > 0, spread_M, 1)
    distance_GG = np.linalg.norm(scaled_GM[:, None] - scaled_GM, axis=-1)
    chosen = itertools.combinations(range(len(groups)), count)
    return min(chosen, key=lambda some: (distance_GG[np.ix_(some, some)].max(), some))


def moments_to_json(moments: Moments) -> dict[str, Any]:
    return {name: np.asarray(getattr(moments, name)).tolist() for name in ("count", "mean", "scatter")}


def moments_from_json(facts: Mapping[str, Any]) -> Moments:
    return Moments(*(np.asarray(facts[name]) for name in ("count", "mean", "scatter")))


def _columns(moments: Moments, columns: list[int]) -> Moments:
    return Moments(moments.count, moments.mean[columns], moments.scatter[np.ix_(columns, columns)])


def _by_arm(arm_of_B: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The name of each arm, and a mask of those who have it."""
    return [(str(name), arm_of_B == name) for name in np.unique(arm_of_B) if name]


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
