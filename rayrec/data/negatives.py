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
from rayrec.data.pages import NO_PAGES, Pages
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
    pages: "PassedOver | None" = None  # what was not clicked on the pages of the clicks, if it is drawn from that

    @classmethod
    def of(
        cls,
        settings: Negatives,
        pairs: np.ndarray,
        published_at: np.ndarray,
        device: torch.device,
        worker: Worker = SINGLE,
        pages: Pages = NO_PAGES,
    ) -> Self:
        """`pairs` are the clicks of this worker's users as `click_pairs` gives them; each worker calls this at the same point."""
        cumulative, passed_over = None, None
        if settings.by == "page":
            passed_over = PassedOver.of(pages, len(published_at), device)
        if settings.by == "popularity":
            clicks = torch.from_numpy(np.bincount(pairs % len(published_at), minlength=len(published_at))).to(device)
            weights = total(clicks, worker).double() ** EXPONENT
            weights[0] = 0
            cumulative = weights.cumsum(0)
        known, published = (torch.from_numpy(values).to(device) for values in (pairs, published_at))
        return cls(settings.count, known, published, cumulative, passed_over)

    def draw(self, user_B: Tensor, item_B: Tensor, at_B: Tensor, clicked_B: Tensor, seed: int) -> Tensor:
        """K videos for each of these impressions that was clicked: int64 [B, K], 0 in the rows of those that were not.

        A place is 0, too, where `TRIES` draws found no video.
        """
        items = len(self.published_at)
        found = torch.zeros(len(user_B) * self.count, dtype=torch.int64, device=user_B.device)
        impression_B = impression_keys(user_B, item_B, at_B, items)
        key_B, page_B = mix(impression_B + seed), impression_B if self.pages is None else self.pages.find(impression_B)
        empty = clicked_B.repeat_interleave(self.count).nonzero().squeeze(1)  # the places that are still to be filled
        for attempt in range(TRIES):
            if not len(empty):
                break
            row, place = empty // self.count, empty % self.count
            share = uniform(key_B[row] + (1 + attempt * self.count + place) * STEP)
            drawn = self._item(share) if self.pages is None else self.pages.item(page_B[row], share)
            good = (drawn > 0) & ~self._clicked(user_B[row] * items + drawn) & (self.published_at[drawn] <= at_B[row])
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


@dataclass(frozen=True)
class PassedOver:
    """The videos that were not clicked on the page of each click."""

    key: Tensor  # int64 [clicks], ascending: `impression_keys` of the clicks
    start: Tensor  # int64 [clicks]: where the videos of the page of each click begin in `items`
    count: Tensor  # int64 [clicks]
    items: Tensor  # int64, page after page

    @classmethod
    def of(cls, pages: Pages, items: int, device: torch.device) -> Self:
        others = np.flatnonzero(~pages.clicked)
        others = others[np.argsort(pages.page[others], kind="stable")]
        first, behind = (np.searchsorted(pages.page[others], pages.page[pages.clicked], side) for side in ("left", "right"))
        user, item, at = (torch.from_numpy(column[pages.clicked]).long() for column in (pages.user, pages.item, pages.at))
        key, order = impression_keys(user, item, at, items).sort()
        columns = (torch.from_numpy(values)[order] for values in (first, behind - first))
        return cls(*(each.to(device) for each in (key, *columns, torch.from_numpy(pages.item[others]).long())))

    def find(self, key_B: Tensor) -> Tensor:
        """The row of each click here: int64 [B], -1 for one whose page is not known or has nothing else."""
        if not len(self.key):
            return torch.full_like(key_B, -1)
        row = torch.searchsorted(self.key, key_B).clamp(max=len(self.key) - 1)
        return torch.where(self.key[row] == key_B, row, -1)

    def item(self, row: Tensor, share: Tensor) -> Tensor:
        """The video at a share, from 0 to below 1, of those of each row; 0 for row -1."""
        if not len(self.items):
            return torch.zeros_like(row)
        return torch.where(row >= 0, self.items[self.start[row] + (share * self.count[row]).long()], 0)


def impression_keys(user: Tensor, item: Tensor, at: Tensor, items: int) -> Tensor:
    """A hash of each impression, int64: of its user, its item (of so many) and its time."""
    return mix(mix(user * items + item) ^ mix(at))


def chosen(settings: Negatives | None, clicks_only: bool) -> Negatives | None:
    """What training draws. Without a setting it is nothing, unless the log has `clicks_only`.

    Raises `DataError` where nothing shall be drawn for a log of clicks alone.
    """
    if settings is None:
        return Negatives() if clicks_only else None
    if clicks_only and (not settings.count or settings.by == "page"):
        raise DataError(
            "training.negatives: all impressions of the training split were clicked, so there is nothing to learn without "
            "negatives, and no page has any; set a count of 1 or more, by uniform or popularity"
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
    user, item, clicked = (torch.from_numpy(column) for column in (examples.user, examples.item, examples.clicked))
    return _distinct([pairs, _pairs(user, item, clicked, items)])


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
    goals = None if same.goals is None else np.zeros_like(same.goals)  # nobody did anything with what was not shown
    return Examples(same.user, drawn.ravel()[place].astype(np.int32), nothing, same.at, same.end, same.context, goals), place


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
