"""What is held out of the log to measure a model by, beside what it learns from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import sparse

from rayrec.collaborative.feedback import Feedback, clicked, without
from rayrec.data.context import NO_CONTEXT
from rayrec.data.history import ClickHistory
from rayrec.data.loading import TableReader
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share


@dataclass(frozen=True)
class Splits:
    """The training and validation splits, and the one that is only looked at when a model has been chosen."""

    feedback: Feedback
    test: sparse.csr_array  # float32 [U, I]: clicks on items that the user did not click in training

    @classmethod
    def of_log(cls, reader: TableReader, log: EncodedLog, modalities: Sequence[str]) -> Self:
        """The splits of the config's section `split`. Raises `DataError` as `Feedback.read` does."""
        feedback = Feedback.read(reader, log, modalities)
        examples, _ = Share.of_all(log, NO_CONTEXT, feedback.users).test()
        return cls(feedback, without(clicked(examples, feedback.users, feedback.items), feedback.likes))

    @classmethod
    def of_last_clicks(cls, reader: TableReader, log: EncodedLog, modalities: Sequence[str]) -> Self:
        """Each user's last click for the test, the one before for validation, and all others to learn from ("leave one out").

        Raises `DataError` as `Feedback.read` does.
        """
        feedback = Feedback.read(reader, log, modalities)
        likes, validation, test = last_clicks(Share.of_all(log, NO_CONTEXT, feedback.users).clicks, feedback.items)
        return cls(replace(feedback, likes=likes, held_out=validation), test)


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
