"""Negatives: videos drawn for the clicks of a log, which the users did not click.

What is drawn for a click follows from the seed, the epoch and the click itself. So it does not depend on the number of workers, on
the size of a batch, or on where a training was resumed. Everything happens on the device of the batch.

Shapes: B requests, K negatives of a click, I items (item 0, "no item", included).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rayrec.config import Negatives, Training
from rayrec.data.errors import DataError
from rayrec.data.examples import Examples
from rayrec.data.hashing import STEP, mix, uniform
from rayrec.data.history import ClickHistory
from rayrec.data.shuffling import ExampleSource
from rayrec.training.exchange import SINGLE, Worker, total

TRIES = 16  # after which a place stays empty (0), where a user has clicked nearly everything
EXPONENT = 0.75  # of the clicks of a video, by which it is drawn (Mikolov et al., "Distributed Representations of Words", 2013)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class NegativeSampler:
    """Draws K videos for each click, never one that its user has clicked or that was not published at the time."""

    count: int  # K
    pairs: Tensor  # int64, ascending: user * I + item of all clicks
    published_at: Tensor  # int64 [I], UTC ms, 0 where it is unknown
    cumulative: Tensor | None = None  # float64 [I]: the sums of the weights of all videos up to each; None: all are equally likely

    @classmethod
    def of(
        cls, settings: Negatives, pairs: np.ndarray, published_at: np.ndarray, device: torch.device, worker: Worker = SINGLE
    ) -> Self:
        """`pairs` are the clicks of this worker's users as `click_pairs` gives them; each worker calls this at the same point."""
        cumulative = None
        if settings.by == "popularity":
            clicks = torch.from_numpy(np.bincount(pairs % len(published_at), minlength=len(published_at))).to(device)
            weights = total(clicks, worker).double() ** EXPONENT
            weights[0] = 0
            cumulative = weights.cumsum(0)
        return cls(settings.count, torch.from_numpy(pairs).to(device), torch.from_numpy(published_at).to(device), cumulative)

    def draw(self, user_B: Tensor, item_B: Tensor, at_B: Tensor, clicked_B: Tensor, seed: int) -> Tensor:
        """K videos for each of these impressions that was clicked: int64 [B, K], 0 in the rows of those that were not.

        A place is 0, too, where `TRIES` draws found no video.
        """
        items = len(self.published_at)
        key_B = mix(mix(user_B * items + item_B) ^ mix(at_B + seed))
        found = torch.zeros(len(user_B) * self.count, dtype=torch.int64, device=user_B.device)
        empty = clicked_B.repeat_interleave(self.count).nonzero().squeeze(1)  # the places that are still to be filled
        for attempt in range(TRIES):
            if not len(empty):
                break
            row, place = empty // self.count, empty % self.count
            drawn = self._item(uniform(key_B[row] + (1 + attempt * self.count + place) * STEP))
            good = ~self._clicked(user_B[row] * items + drawn) & (self.published_at[drawn] <= at_B[row])
            found[empty[good]] = drawn[good]
            empty = empty[~good]
        return found.view(-1, self.count)

    def _item(self, share: Tensor) -> Tensor:
        """The item at a share, from 0 to below 1, of all weights."""
        items = len(self.published_at)
        if self.cumulative is None:
            return 1 + (share * (items - 1)).long()
        return torch.searchsorted(self.cumulative, share * self.cumulative[-1], right=True).clamp(max=items - 1)

    def _clicked(self, pairs: Tensor) -> Tensor:
        """Whether each of these pairs is a click."""
        if not len(self.pairs):
            return torch.zeros_like(pairs, dtype=torch.bool)
        at = torch.searchsorted(self.pairs, pairs).clamp(max=len(self.pairs) - 1)
        return self.pairs[at] == pairs


def chosen(settings: Negatives | None, clicks_only: bool) -> Negatives | None:
    """What training draws. Without a setting it is nothing, unless the log has `clicks_only`.

    Raises `DataError` where nothing shall be drawn for a log of clicks alone.
    """
    if settings is None:
        return Negatives() if clicks_only else None
    if clicks_only and not settings.count:
        raise DataError(
            "training.negatives: all impressions of the training split were clicked, so there is nothing to learn without "
            "negatives; set a count of 1 or more"
        )
    return settings if settings.count else None


def negatives_of_test(settings: Training, clicks_only: bool) -> Negatives | None:
    """What is drawn for the clicks of the test split where the log has clicks alone. It is uniform, to judge all models alike."""
    drawn = chosen(settings.negatives, clicks_only) if clicks_only else None
    return drawn and Negatives(count=drawn.count)


def click_pairs(source: ExampleSource, items: int) -> np.ndarray:
    """The clicks of training examples as user * items + item, ascending and each once: int64. It reads block after block."""
    blocks = source.blocks(range(len(source.block_sizes)), CPU)
    return _distinct(_pairs(each.columns.user, each.columns.item, each.columns.clicked, items) for each in blocks)


def with_pairs(pairs: np.ndarray, examples: Examples, items: int) -> np.ndarray:
    """`click_pairs` together with the clicks of more examples."""
    return _distinct([pairs, _pairs(*map(torch.from_numpy, (examples.user, examples.item, examples.clicked)), items)])


def history_pairs(clicks: ClickHistory, items: int) -> np.ndarray:
    """All clicks as user * items + item, ascending and each once: int64."""
    user = np.repeat(np.arange(len(clicks.offsets) - 1), np.diff(clicks.offsets))
    return np.unique(user * items + clicks.items)


def drawn_examples(examples: Examples, sampler: NegativeSampler, seed: int) -> tuple[Examples, np.ndarray]:
    """What is drawn for the clicks among these examples, as examples that were not clicked, and their places in [examples, K]."""
    columns = (torch.from_numpy(column) for column in (examples.user, examples.item, examples.at, examples.clicked))
    user, item, at, clicked = (column.to(sampler.pairs.device) for column in columns)
    drawn = sampler.draw(user.long(), item.long(), at, clicked, seed).cpu().numpy()
    place = np.flatnonzero(drawn)
    same = examples.take(place // sampler.count)
    nothing = np.zeros(len(place), dtype=bool)
    return Examples(same.user, drawn.ravel()[place].astype(np.int32), nothing, same.at, same.end, same.context), place


def with_negatives(
    test: Examples, clicks: ClickHistory, published_at: np.ndarray, settings: Negatives | None, seed: int
) -> tuple[Examples, np.ndarray]:
    """Test examples, followed by what is drawn for the clicks among them, and the places of that in [examples, K].

    `clicks` are all clicks of the users of these examples. Without settings nothing is drawn.
    """
    if settings is None:
        return test, np.empty(0, np.int64)
    drawn, place = drawn_examples(
        test, NegativeSampler.of(settings, history_pairs(clicks, len(published_at)), published_at, CPU), seed
    )
    return together(test, drawn), place


def together(examples: Examples, others: Examples) -> Examples:
    """Examples, followed by others."""
    return Examples(*(np.concatenate(both) for both in zip(examples.columns, others.columns, strict=True)))


def _pairs(user: Tensor, item: Tensor, clicked: Tensor, items: int) -> np.ndarray:
    return (user[clicked].long() * items + item[clicked]).numpy()


def _distinct(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, np.int64), *map(np.unique, parts)]))
