"""How the people of the synthetic world choose: their tastes, and the probability that a user clicks a video.

Every user likes a few topics, and responds to picture, sound and words to different degrees. With

    I(u,d,t)  the interest of user u in topic t on day d
    w(u,m)    how strongly user u responds to modality m (picture, sound, words); sums to 1 over m
    t(v,m)    the topic that modality m of video v shows: that of the video, or another one in a misleading modality
    q(v)      the video's quality
    p         the position in the page, from 0
    g(u)      how freely user u gives likes; normal, with the deviation LIKES_SD

the choice model is

    affinity  a(u,d,v)  = sum over m of w(u,m) * I(u,d,t(v,m))
    click     P(u,d,v,p) = sigmoid(BIAS + SLOPE * a(u,d,v) + q(v) - DISCOUNT * p)
    watched share of a clicked video = sigmoid(0.4 + 1.2 * a + 0.6 * noise - 0.15 * (seconds - 4.5)),  noise ~ N(0, 1)
    like of a clicked video          = sigmoid(LIKE_BIAS + LIKE_SLOPE * a + LIKE_QUALITY * q(v) + g(u))

so that a click depends on the user's interests of that day, not only on the popularity of a video, and no single modality suffices
to predict it. What is watched longest is not what is liked most: taste moves both, but once it is clicked the quality of a video
moves likes alone, and its length the seconds alone. Of the videos shown, one in six is clicked and one in thirty liked.
"""

from dataclasses import dataclass

import numpy as np

MODALITIES = ("picture", "sound", "words")
BIAS, SLOPE, DISCOUNT = -2.2, 3.0, 0.05
QUALITY_SD = 0.4
MODALITY_CONCENTRATION = (1.4, 1.0, 1.4)  # of the Dirichlet distribution of w(u,.): most users lean to one or two modalities
STRONG_TOPICS = (2, 3, 4)  # the number of topics that a user likes on any day is one of these
DRIFT_SD = 0.15  # of the daily step of a strong interest
SWAP_SHARE = 0.08  # of users who replace a strong topic by another on a day
LIKE_BIAS, LIKE_SLOPE, LIKE_QUALITY, LIKES_SD = -2.6, 1.2, 1.5, 0.8
SIBLING = 0.2  # share of an interest that carries over to the other topics of its secondary class


@dataclass(frozen=True)
class Tastes:
    """`interest` is [users, days, topics] and about 1 for a topic that is liked; `weight` is [users, modalities]."""

    interest: np.ndarray
    weight: np.ndarray

    def affinity(self, user: np.ndarray | int, day: int, shown: np.ndarray) -> np.ndarray:
        """a(u,d,v) as [..., videos] for one user or an array of them; `shown` is t(v,m), [videos, modalities]."""
        return np.einsum("...vm,...m->...v", self.interest[user, day][..., shown], self.weight[user])


def click_probability(affinity: np.ndarray, quality: np.ndarray, position: np.ndarray | int) -> np.ndarray:
    """P(u,d,v,p) of the choice model."""
    return sigmoid(BIAS + SLOPE * affinity + quality - DISCOUNT * position)


def watch_seconds(affinity: np.ndarray, duration_s: np.ndarray, noise: np.ndarray | float) -> np.ndarray:
    """The seconds for which clicked videos are watched. Of a longer video a smaller share is watched."""
    return duration_s * sigmoid(0.4 + 1.2 * affinity + 0.6 * noise - 0.15 * (duration_s - 4.5))


def expected_watch_seconds(affinity: np.ndarray, duration_s: np.ndarray) -> np.ndarray:
    """The mean of `watch_seconds` over the noise, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    seconds = sum(weight * watch_seconds(affinity, duration_s, node) for node, weight in zip(nodes, weights, strict=True))
    return np.asarray(seconds / weights.sum())


def like_probability(affinity: np.ndarray, quality: np.ndarray, likes: np.ndarray) -> np.ndarray:
    """How likely clicked videos are liked; `likes` is g(u)."""
    return sigmoid(LIKE_BIAS + LIKE_SLOPE * affinity + LIKE_QUALITY * quality + likes)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def make_tastes(topic_appeal: np.ndarray, secondary: np.ndarray, days: int, rng: np.random.Generator) -> Tastes:
    """Tastes that drift from day to day. `topic_appeal` [users, topics] says how likely a user likes a topic; rows sum to 1.

    `secondary` [topics] is the secondary class of each topic, as a number.
    """
    users, topics = topic_appeal.shape
    # The largest keys log(p) + Gumbel noise draw topics in proportion to p, without repetition.
    liking = np.log(topic_appeal) + rng.gumbel(size=(users, topics))
    rank = (-liking).argsort(axis=1).argsort(axis=1)
    strength = np.where(rank < rng.choice(STRONG_TOPICS, users)[:, None], rng.uniform(0.7, 1.3, (users, topics)), 0)
    whim = rng.normal(0, 0.1, (users, topics))  # weak likes and dislikes, which do not drift
    siblings = (secondary[:, None] == secondary) & ~np.eye(topics, dtype=bool)
    by_day = []
    for _ in range(days):
        by_day.append(whim + strength + SIBLING * (strength @ siblings))
        strength = _next_day(strength, topic_appeal, rng)
    return Tastes(np.stack(by_day, axis=1), rng.dirichlet(MODALITY_CONCENTRATION, users))


def _next_day(strength: np.ndarray, topic_appeal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One step of the random walk, and for some users the swap of a strong topic for a new one."""
    strong = strength > 0
    strength = np.where(strong, np.clip(strength + rng.normal(0, DRIFT_SD, strength.shape), 0.4, 1.6), 0)
    old = np.where(strong, rng.uniform(size=strength.shape), -1).argmax(axis=1)
    new = np.where(strong, -np.inf, np.log(topic_appeal) + rng.gumbel(size=strength.shape)).argmax(axis=1)
    swaps = np.flatnonzero((rng.uniform(size=len(strength)) < SWAP_SHARE) & ~strong.all(axis=1))
    strength[swaps, old[swaps]] = 0
    strength[swaps, new[swaps]] = 1
    return strength
