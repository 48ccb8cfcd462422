"""What is held out of the log to measure a model by, beside what it learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback, clicked, read_vectors, refuse_no_clicks, without
from rayrec.data.context import NO_CONTEXT
from rayrec.data.history import ClickHistory
from rayrec.data.loading import TableReader
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share

HeldOut = Literal["split", "last_click"]


@dataclass(frozen=True)
class Splits:
    """The training and validation splits, and the one that is only looked at when a model has been chosen.

    `HeldOut` says which they are: those of the config's section `split`, or, with `last_click`, each user's last click for the
    test, the one before for validation, and all others to learn from ("leave one out").
    """

    feedback: Feedback
    test: sparse.csr_array  # float32 [U, I]: clicks on items that the user did not click in training

    @classmethod
    def read(cls, reader: TableReader, log: EncodedLog, held_out: HeldOut, modalities: Sequence[str] = ()) -> Self:
        """The splits of all users, with vectors of these names. Raises `DataError` for a log without clicks, or without vectors."""
        vectors = read_vectors(reader, modalities, log.items.ids)
        found = cls.of_share(Share.of_all(log, NO_CONTEXT, len(log.users.ids) + 1), held_out)
        refuse_no_clicks(found.feedback.likes)
        return cls(replace(found.feedback, vectors=vectors), found.test)

    @classmethod
    def of_share(cls, share: Share, held_out: HeldOut) -> Self:
        """The splits of the users of some shards; the rows of all others are empty."""
        items = len(share.log.items.ids) + 1
        if held_out == "last_click":
            likes, validation, test = last_clicks(share.clicks, items)
            return cls(Feedback(likes, validation), test)
        parts = (share.train_in_memory(), share.validation(), share.test()[0])
        likes, validation, test = (clicked(part, share.user_count, items) for part in parts)
        return cls(Feedback(likes, without(validation, likes)), without(test, likes))


def last_clicks(clicks: ClickHistory, items: int) -> tuple[sparse.csr_array, sparse.csr_array, sparse.csr_array]:
    """All clicks but the last two of each user, the last but one, and the last: float32 [U, I] each, 1 for each pair.

    Only a user's first click on an item counts. Users with fewer than three items are in the first alone.
    """
    users = len(clicks.offsets) - 1
    user = np.repeat(np.arange(users), np.diff(clicks.offsets))
    _, first = np.unique(user * items + clicks.items, return_index=True)
    kept = np.sort(first[(user[first] > 0) & (clicks.items[first] > 0)])  # by user and time, as the clicks are
    user, item = user[kept], clicks.items[kept]
    counts = np.bincount(user, minlength=users)
    from_end = np.cumsum(counts)[user] - np.arange(len(user))  # 1 for the last
    part = np.where(counts[user] < 3, 0, np.select([from_end == 1, from_end == 2], [2, 1], 0))

    def matrix(number: int) -> sparse.csr_array:
        rows = part == number
        return sparse.coo_array((np.ones(rows.sum(), np.float32), (user[rows], item[rows])), shape=(users, items)).tocsr()

    return matrix(0), matrix(1), matrix(2)
