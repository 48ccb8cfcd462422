"""The protocol by which lists of items are measured: all items are ranked for each user, without those that the user clicked in
training, and the first k are compared with what was held out.

    Recall@k    the share of a user's held-out items among the first k
    NDCG@k      their discounted gain, 1 / log2(rank + 1) each, by that of the best possible list
    MRR@k       1 / the rank of the first held-out item, 0 where it is above k
    hit rate@k  whether there is a held-out item among the first k
    coverage@k  the share of all items that are among the first k of at least one user
    novelty@k   the mean of -log2(share of the users who clicked the item in training) over all items of all lists (Zhou et al.,
                "Solving the apparent diversity-accuracy dilemma of recommender systems", PNAS 2010)

The first four are means over the users with a held-out item. All are exact, and equal scores are ranked by the items' indices, so
that the same scores always give the same figures. Matrices of users by items are sparse; scores are made and ranked for as many
users at a time as fit. What is measured of shares of the users adds up (`ListTotals`) to what would be measured of all.

`sampled` is the protocol of He et al., "Neural Collaborative Filtering", WWW 2017, section 4.1: one held-out item of each user is
ranked among some that the user never clicked. Its figures are not comparable with those of all items (Krichene and Rendle, "On
Sampled Metrics for Item Recommendation", KDD 2020).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from rayrec.data.top import rows_at_once, top_items
from rayrec.errors import RayrecError

# Scores of all items for some users, given by their indices and what they clicked in training: float [B, I], the higher the better.
ListScorer = Callable[[np.ndarray, sparse.csr_array], np.ndarray]
# The items that may be in the lists of some users: bool [B, I].
Allowed = Callable[[np.ndarray], np.ndarray]

METRICS = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "hit": "hit rate", "coverage": "coverage", "novelty": "novelty"}
OF_USERS = ("recall", "ndcg", "mrr", "hit")  # those of single users


class ScoresError(RayrecError):
    """What a model scores can't be ranked."""


@dataclass(frozen=True)
class ListTotals:
    """Sums over the users of a share."""

    k: Sequence[int]
    users: int
    sums: np.ndarray  # float64 [K, 4]: of each of `OF_USERS`
    listed: np.ndarray  # int64 [K, I]: in how many lists each item is

    def __add__(self, other: Self) -> Self:
        return type(self)(self.k, self.users + other.users, self.sums + other.sums, self.listed + other.listed)

    def metrics(self, clicks_I: np.ndarray, users: int) -> dict[str, float]:
        """Each metric at each k, under names such as `recall@20`. `clicks_I` says how many of so many users clicked each item in
        training. Without anybody to measure, all are NaN.
        """
        found = {}
        surprise_I = -np.log2(np.maximum(clicks_I, 1) / users)  # an item that nobody clicked counts as one that somebody did
        for row, k in enumerate(self.k):
            listed_I = self.listed[row]
            means = dict(zip(OF_USERS, self.sums[row] / self.users if self.users else [np.nan] * len(OF_USERS), strict=True))
            means["coverage"] = np.count_nonzero(listed_I) / (len(listed_I) - 1) if self.users else np.nan
            means["novelty"] = listed_I @ surprise_I / listed_I.sum() if listed_I.any() else np.nan
            found.update({f"{name}@{k}": float(value) for name, value in means.items()})
        return found


def measure(
    scorer: ListScorer, likes: sparse.csr_array, held_out: sparse.csr_array, k: Sequence[int], allowed: Allowed | None = None
) -> ListTotals:
    """Rank the items for the users with a held-out item. `likes` and `held_out` are [U, I] with index 0, without common entries.

    The lists hold what `allowed` says, or else all items that the user has not clicked in training. A list ends where there is no
    such item left. Raises `ScoresError` for scores that are not numbers.
    """
    users, (_, items) = np.flatnonzero(np.diff(held_out.indptr)), held_out.shape
    totals = ListTotals(k, 0, np.zeros((len(k), len(OF_USERS))), np.zeros((len(k), items), np.int64))
    for start in range(0, len(users), rows_at_once(items)):
        user_B = users[start : start + rows_at_once(items)].astype(np.int32)
        scores_BI = np.array(scorer(user_B, likes[user_B]), dtype=np.float32)
        if np.isnan(scores_BI).any():
            raise ScoresError("some scores of the model are not numbers, so its lists have no order; its training has diverged")
        excluded_BI = likes[user_B].toarray() > 0 if allowed is None else ~allowed(user_B)
        excluded_BI[:, 0] = True
        scores_BI[excluded_BI] = -np.inf
        totals += _measured(scores_BI, held_out[user_B], k)
    return totals


def _measured(scores_BI: np.ndarray, held_out_BI: sparse.csr_array, k: Sequence[int]) -> ListTotals:
    """Items with a score of minus infinity are in no list."""
    rows, items = scores_BI.shape
    longest = min(max(k), items)
    top_BK = top_items(scores_BI, longest)
    there_BK = np.isfinite(np.take_along_axis(scores_BI, top_BK, axis=1))
    hits_BK = there_BK & np.take_along_axis(held_out_BI.toarray() > 0, top_BK, axis=1)
    relevant_B = np.diff(held_out_BI.indptr)
    discount_K = 1 / np.log2(np.arange(2, longest + 2))
    best_K = np.cumsum(discount_K)
    first_B = np.where(hits_BK.any(axis=1), hits_BK.argmax(axis=1), longest)
    sums, listed = np.zeros((len(k), len(OF_USERS))), np.zeros((len(k), items), np.int64)
    for row, length in enumerate(k):
        hits_Bk, found_B = hits_BK[:, :length], first_B < min(length, longest)
        sums[row] = (
            (hits_Bk.sum(axis=1) / relevant_B).sum(),
            (hits_Bk @ discount_K[:length] / best_K[np.minimum(relevant_B, min(length, longest)) - 1]).sum(),
            (found_B / (first_B + 1)).sum(),
            found_B.sum(),
        )
        listed[row] = np.bincount(top_BK[:, :length][there_BK[:, :length]], minlength=items)
    return ListTotals(k, rows, sums, listed)


# --- one item among sampled ones ------------------------------------------------------------------------------------------------


def one_each(held_out: sparse.csr_array, seed: int) -> sparse.csr_array:
    """One entry of each row that has any, drawn at random."""
    users = np.flatnonzero(np.diff(held_out.indptr))
    draws = np.array([np.random.default_rng((seed, user)).random() for user in users.tolist()])
    chosen = held_out.indptr[users] + (draws * np.diff(held_out.indptr)[users]).astype(np.int64)
    pairs = (users, held_out.indices[chosen])
    return sparse.coo_array((np.ones(len(users), np.float32), pairs), shape=held_out.shape).tocsr()


def sampled(positive: sparse.csr_array, known: sparse.csr_array, negatives: int, seed: int) -> Allowed:
    """For `measure`: the one positive of each user, and so many items, drawn evenly, that the user is not known to have clicked.

    `known` is [U, I]. What is drawn for a user follows from the seed and the user.
    """
    every_item = np.arange(1, positive.shape[1])

    def allowed(user_B: np.ndarray) -> np.ndarray:
        allowed_BI = positive[user_B].toarray() > 0
        for row, user in enumerate(user_B.tolist()):
            unknown = np.setdiff1d(every_item, known.indices[known.indptr[user] : known.indptr[user + 1]])
            unknown = np.setdiff1d(unknown, np.flatnonzero(allowed_BI[row]))
            drawn = np.random.default_rng((seed, user)).choice(unknown, min(negatives, len(unknown)), replace=False)
            allowed_BI[row, drawn] = True
        return allowed_BI

    return allowed
