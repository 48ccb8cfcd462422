"""Who opens the synthetic feed when, and what the platform shows them: the log that a recommender has to learn from.

The logging policy draws a page of ten videos without repetition, from the published videos that the user has not been shown yet.
Videos that were shown before are used only when no others are left. The draw is from a mixture:

    40 %  random    all videos with equal probability
    20 %  popular   in proportion to the video's clicks so far
    20 %  fresh     in proportion to exp(-age / 1 day)
    20 %  matched   in proportion to the user's clicks so far in the video's secondary class, a weak guess at interest

People come in sessions of a few pages within half an hour, more often in the evening. Their activity is heavy-tailed.
"""

from dataclasses import dataclass

import numpy as np

from rayrec.datasets.synthetic.choice import Tastes, click_probability, watch_seconds

PAGE = 10
RANDOM, POPULAR, FRESH, MATCHED = 0.4, 0.2, 0.2, 0.2
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NEWCOMERS = 0.08  # share of users with one or two requests
SESSION = 3  # requests in a session, on average
SESSION_MS = 25 * 60_000  # the longest session; a user's sessions begin in different hours of the clock, at most 5 minutes past
# The activity in each hour of the day (UTC; the world has one time zone).
HOURS = np.array([3, 2, 1, 1, 1, 1, 2, 4, 5, 4, 4, 5, 6, 5, 4, 4, 5, 6, 8, 10, 11, 10, 8, 5], dtype=float)


@dataclass(frozen=True)
class Stock:
    """The videos, as the platform and the people see them. All arrays are over videos."""

    published_ms: np.ndarray  # since the log's first midnight; negative before it
    secondary: np.ndarray  # the secondary class, as a number
    shown: np.ndarray  # [videos, modalities]: the topic that each modality shows
    quality: np.ndarray
    duration_s: np.ndarray


@dataclass(frozen=True)
class Log:
    """One row for each impression, in the order of requests and of positions in the page. Users and videos are indices."""

    request: np.ndarray
    user: np.ndarray
    video: np.ndarray
    at_ms: np.ndarray  # since the log's first midnight
    clicked: np.ndarray
    watch_s: np.ndarray
    affinity: np.ndarray
    probability: np.ndarray


def visits(users: int, requests: int, videos: int, days: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The user and the time (ms since the first midnight) of every request, in time order."""
    activity = _requests_per_user(users, requests, limit=max(2, int(0.8 * videos / PAGE)), rng=rng)
    user = np.repeat(np.arange(users), activity)
    at_ms = np.concatenate([_visits_of_one(int(total), days, rng) for total in activity])
    order = np.lexsort((user, at_ms))
    return user[order], at_ms[order]


def browse(stock: Stock, tastes: Tastes, user: np.ndarray, at_ms: np.ndarray, rng: np.random.Generator) -> Log:
    """Show a page for every request, in time order, and let the users choose."""
    policy = Policy(stock, len(tastes.weight))
    pages, affinities, probabilities, clicks, watched = [], [], [], [], []
    for who, now in zip(user, at_ms, strict=True):
        page = policy.page(int(who), int(now), rng)
        affinity = tastes.affinity(int(who), int(now // DAY_MS), stock.shown[page])
        probability = click_probability(affinity, stock.quality[page], np.arange(len(page)))
        clicked = rng.uniform(size=len(page)) < probability
        watch_s = watch_seconds(affinity, stock.duration_s[page], rng.normal(size=len(page)))
        policy.observe(int(who), page, clicked)
        pages.append(page)
        affinities.append(affinity)
        probabilities.append(probability)
        clicks.append(clicked)
        watched.append(np.where(clicked, watch_s, 0))
    sizes = [len(page) for page in pages]
    return Log(
        request=np.repeat(np.arange(len(pages)), sizes),
        user=np.repeat(user, sizes),
        video=np.concatenate(pages),
        at_ms=np.repeat(at_ms, sizes),
        clicked=np.concatenate(clicks),
        watch_s=np.concatenate(watched),
        affinity=np.concatenate(affinities),
        probability=np.concatenate(probabilities),
    )


class Policy:
    """The logging policy of the platform: it chooses pages from what it has observed so far."""

    def __init__(self, stock: Stock, users: int) -> None:
        self.stock = stock
        self.clicks = np.zeros(len(stock.quality))
        self.class_clicks = np.zeros((users, stock.secondary.max() + 1))
        self.seen = np.zeros((users, len(stock.quality)), dtype=bool)

    def page(self, user: int, now_ms: int, rng: np.random.Generator) -> np.ndarray:
        """Ten videos in the order in which they are shown; fewer if fewer are published."""
        published = self.stock.published_ms <= now_ms
        age_days = np.where(published, now_ms - self.stock.published_ms, 0) / DAY_MS
        parts = (
            (RANDOM, np.ones(len(published))),
            (POPULAR, self.clicks + 1),
            (FRESH, np.exp(-age_days)),
            (MATCHED, self.class_clicks[user, self.stock.secondary] + 0.1),
        )
        weights = sum(share * np.where(published, part, 0) / part[published].sum() for share, part in parts)
        # The largest keys log(w) + Gumbel noise are a draw in proportion to w, without repetition. Seen videos come last.
        with np.errstate(divide="ignore"):
            keys = np.log(weights) + rng.gumbel(size=len(weights)) - 1e6 * self.seen[user]
        return np.argsort(-keys, kind="stable")[: min(PAGE, int(published.sum()))]

    def observe(self, user: int, page: np.ndarray, clicked: np.ndarray) -> None:
        """Remember what was shown and clicked."""
        self.seen[user, page] = True
        self.clicks[page] += clicked
        np.add.at(self.class_clicks[user], self.stock.secondary[page[clicked]], 1)


def _requests_per_user(users: int, requests: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """The number of requests of each user. `limit` keeps active users from running out of videos; it is doubled if all reach it."""
    newcomers = round(users * NEWCOMERS)
    liveliness = rng.lognormal(0, 1.1, users)
    counts = np.ones(users, dtype=int)
    counts[:newcomers] = rng.integers(1, 3, newcomers)
    liveliness[:newcomers] = 0
    left = requests - counts.sum()
    while left > 0:
        open_to_more = liveliness * (counts < limit)
        if not open_to_more.any():
            limit *= 2
            continue
        counts += rng.multinomial(left, open_to_more / open_to_more.sum())
        left = int(np.maximum(counts - limit, 0).sum())
        counts = np.minimum(counts, limit)
    return rng.permutation(counts)


def _visits_of_one(requests: int, days: int, rng: np.random.Generator) -> np.ndarray:
    """The times of one user's requests, in sessions that are at least half an hour apart."""
    hours = days * 24
    sessions = min(1 + rng.binomial(requests - 1, 1 / SESSION), hours)
    starts = rng.choice(hours, sessions, replace=False, p=np.tile(HOURS, days) / (HOURS.sum() * days))
    starts_ms = starts * HOUR_MS + rng.integers(0, 5 * 60_000, sessions)
    session = np.concatenate([np.arange(sessions), rng.integers(0, sessions, requests - sessions)])
    times = []
    for number, size in enumerate(np.bincount(session)):
        pauses = rng.uniform(40_000, 240_000, size)  # 40 s to 4 minutes a page
        offsets = np.cumsum(pauses) - pauses[0]
        if offsets[-1] > SESSION_MS:
            offsets *= SESSION_MS / offsets[-1]
        times.append(starts_ms[number] + offsets.astype(np.int64))
    return np.concatenate(times)
