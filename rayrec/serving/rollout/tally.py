"""What the users of an experiment did, added up for each user while the events are read in the order of their arrival.

An event counts if it belongs to a page that the experiment made: the page's impressions name the user's arm, and clicks and watch
times count by their request. As in the export, a video of a page is clicked once at most, and its watch time is the longest that
was sent. Impressions are the videos of its pages or, where the store's `exposure` is a view, those of them that came into view.
Whatever comes more than `MAX_DELAY_MS` after its page, or before the page was stored, does not count.

Memory grows with the users, by some 100 bytes each, and with the pages of the last days. Users and pages are known by hashes, so
that no id is kept.
"""

from array import array
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Experiment
from rayrec.serving.assignment import arm_in
from rayrec.serving.state.export import DAY, MAX_DELAY_DAYS
from rayrec.serving.state.store import Exposure

MAX_DELAY_MS = MAX_DELAY_DAYS * DAY
IMPRESSIONS, CLICKS, WATCH_S = range(3)  # what is summed
SEVERAL = -1  # in place of the arm of a user who was in several arms


@dataclass(slots=True)
class _Page:
    user: int  # the user's row
    at: int  # UTC ms
    clicked: set[int] | None = None  # videos
    watched: dict[int, float] | None = None  # video -> seconds
    viewed: set[int] | None = None  # videos


@dataclass
class Tally:
    """Of one experiment."""

    name: str
    experiment: Experiment
    exposure: Exposure = "impression"
    _rows: dict[int, int] = field(default_factory=dict)  # user -> row of the columns
    _arm: "array[int]" = field(default_factory=lambda: array("b"))
    _sums: "tuple[array[float], ...]" = field(default_factory=lambda: tuple(array("d") for _ in range(3)))
    _pages: dict[tuple[int, int], _Page] = field(default_factory=dict)  # by user and request, in the order of arrival
    _newest: int = 0  # UTC ms

    def take(self, events: pa.Table) -> None:
        """Adds a piece of the table `events`; pieces come in the order of arrival."""
        kind = events["kind"]
        self._take_pages(events.filter(pc.equal(kind, "impression")))
        self._take_outcomes(events.filter(pc.is_in(kind, pa.array(["click", "watch", "view"], kind.type))))
        self._forget_old_pages()

    def users(self) -> tuple[np.ndarray, np.ndarray]:
        """The arm of each user by its place in the config, int [N], or `SEVERAL`, and the sums of what the user did: [N, 3]."""
        return np.array(self._arm, np.int64), np.stack([np.array(column, float) for column in self._sums], axis=-1)

    def _take_pages(self, impressions: pa.Table) -> None:
        arms = {name: place for place, name in enumerate(self.experiment.arms)}
        named = {text: arm_in(text, self.name) for text in pc.unique(impressions["arm"]).to_pylist()}
        found = {text: arms[arm] for text, arm in named.items() if arm in arms}
        rows = impressions.filter(pc.is_in(impressions["arm"], pa.array(list(found), impressions["arm"].type)))
        pages = rows.group_by(["user_id", "request_id", "arm"], use_threads=False).aggregate([("at", "min"), ("at", "count")])
        for user_id, request_id, text, at, count in zip(*(pages[name].to_pylist() for name in pages.column_names), strict=True):
            row = self._row(hash(user_id), found[text])
            if self.exposure == "impression":
                self._sums[IMPRESSIONS][row] += count
            if request_id is not None:
                self._pages.setdefault((hash(user_id), hash(request_id)), _Page(row, at))
            self._newest = max(self._newest, at)

    def _row(self, user: int, arm: int) -> int:
        """The row of a user who was seen in an arm."""
        row = self._rows.setdefault(user, len(self._rows))
        if row == len(self._arm):
            self._arm.append(arm)
            for column in self._sums:
                column.append(0)
        elif self._arm[row] != arm:
            self._arm[row] = SEVERAL
        return row

    def _take_outcomes(self, events: pa.Table) -> None:
        columns = (events[name].to_pylist() for name in ("user_id", "request_id", "video_id", "kind", "watch_s", "at"))
        for user_id, request_id, video_id, kind, watch_s, at in zip(*columns, strict=True):
            page = self._pages.get((hash(user_id), hash(request_id)))
            if page is None or at > page.at + MAX_DELAY_MS:
                continue
            video = hash(video_id)
            if kind == "click":
                page.clicked = page.clicked if page.clicked is not None else set()
                self._sums[CLICKS][page.user] += video not in page.clicked
                page.clicked.add(video)
            elif kind == "view":
                if self.exposure == "view":
                    page.viewed = page.viewed if page.viewed is not None else set()
                    self._sums[IMPRESSIONS][page.user] += video not in page.viewed
                    page.viewed.add(video)
            elif watch_s is not None:
                page.watched = page.watched if page.watched is not None else {}
                before = page.watched.get(video, 0.0)
                page.watched[video] = max(before, watch_s)
                self._sums[WATCH_S][page.user] += page.watched[video] - before

    def _forget_old_pages(self) -> None:
        old = []
        for key, page in self._pages.items():
            if page.at >= self._newest - MAX_DELAY_MS:
                break
            old.append(key)
        for key in old:
            del self._pages[key]
