"""Turns events into the log of the next training: a folder with the table `interactions`, one Parquet file for each UTC day.

    2026-11-21.parquet           the impressions that were delivered on this day, each with what the user did with it
    _unseen-2026-11-21.parquet   those of them that nobody has seen (`serving.views: reported`); not a part of the log
    _export.parquet              other events whose impression has not arrived yet; its metadata say how far the export went

Where views are reported, an impression is a row of the log from the first view on, or from the first other thing that the user did
with the video, and `shown_at` is the time of that; otherwise it is the time of the delivery, which `delivered_at` always is.
`position` is the video's place in its page, from 0; `page_number` and `session_id` are what the caller said of the page, and
`dwell_s` is the longest time that the video was in view. The column `context` says what the request was said to come with, as a
JSON object, whose fields `ingest` makes columns of. Of pages that may explore (`selection.explore`), `propensity` says with which
probability the video was shown in its place, and `among` between which videos it was drawn, as a JSON array, null where nothing was
drawn. `rayrec off_policy` reads them. Each of `serving.event_kinds` has a column of its own name.

Each row has the number of the last event that was known when it was written, in the column `export`. A bundle that is trained on
the folder therefore knows which events its log holds, even if an export brought nothing but clicks.

An export reads only the events that arrived since the previous export, and rewrites only the days that these change. Therefore the
folder may keep events for longer than the store does. Every step can be repeated: after an export that was killed, the next one
continues from where the last complete export ended.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import Config, ConfigError
from rayrec.datasets.files import AMONG, CONTEXT, EXPORTED
from rayrec.serving.state.opening import is_redis, open_store, state_path
from rayrec.serving.state.store import TAKES_BACK, Exposure, StateStore, digest
from rayrec.tables import SECONDS, TEXT, TIME
from rayrec.workspace.files import open_filesystem, write_whole

DAY = 86_400_000  # ms
MAX_DELAY_DAYS = 7  # between an impression and a click on it
MAX_WAIT = DAY  # ms; if its impression has not arrived by then, a click itself counts as proof that the video was shown
STATE = "_export.parquet"
OWN_KINDS = b"event_kinds"  # of its metadata: the kinds of one's own, separated by spaces
NO_EVENTS = "no service has recorded events in this workspace, so there is nothing to export"
EXPORT = "export"  # the column with the number of the last event that was taken into account when the row was written
UNSEEN = "_unseen-"
MAX_UNSEEN_DAYS = 2 * MAX_DELAY_DAYS  # after which an impression that nobody has seen is deleted
KEY = ["user_id", "video_id", "request_id", "delivered_at"]  # rows with the same values are one impression
DRAWN = {"propensity": pa.float64(), AMONG: TEXT}  # what `Event.draw` has of an impression
ROWS = pa.schema(
    {"user_id": TEXT, "video_id": TEXT, "shown_at": TIME, "clicked": pa.bool_(), "watch_s": SECONDS, "request_id": TEXT}
    | {"arm": TEXT, CONTEXT: TEXT, "liked": pa.bool_(), "skipped": pa.bool_(), EXPORT: pa.int64()}
    | {"clicked_at": TIME, "watched_at": TIME, "liked_at": TIME, "skipped_at": TIME}
    | {"delivered_at": TIME, "position": pa.int32(), "page_number": pa.int32(), "session_id": TEXT, "dwell_s": SECONDS}
    | DRAWN,
    metadata=EXPORTED,
)
MERGED = {"clicked": "any", "watch_s": "max", "arm": "first", CONTEXT: "first", "liked": "any", "skipped": "any", EXPORT: "max"}
MERGED |= {"shown_at": "min", "position": "first", "page_number": "first", "session_id": "first", "dwell_s": "max"}
# When it was done for the first time, and for `watched_at`, which is when `watch_s` was known, for the last. Training must not know
# of it earlier: a page is often shown before the page above it was read.
MERGED |= {"clicked_at": "min", "watched_at": "max", "liked_at": "min", "skipped_at": "min"}
PLACE = ("position", "page_number", "session_id")  # of an impression
MERGED |= dict.fromkeys(DRAWN, "first")
KINDS = {"clicked": "click", "watched": "watch", "liked": "like", "skipped": "skip"}


class Export(NamedTuple):
    """What an export has done."""

    events: int  # events that were new to the folder
    impressions: int  # rows that were added
    days: int  # files that were written
    waiting: int  # events whose impression has not arrived yet
    upto: int  # the number of the last event that the folder takes into account


def export_events(config: Config, folder: str) -> Export:
    """Brings a folder (a local path or a URI) up to date with the store.

    Raises `ConfigError` if there are no events yet, or if the folder belongs to another store, or can't be read or written.
    """
    if not is_redis(config) and not state_path(config).exists():
        raise ConfigError(f"{NO_EVENTS} (there is no file {state_path(config)})")
    store = open_store(config)
    try:
        into = _Folder(*open_filesystem(folder), exposure=store.exposure, kinds=config.serving.event_kinds)
        return _export(store, into, int(time.time() * 1000))
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{folder} can't be read or written: {error}") from error
    finally:
        store.close()


def _export(store: StateStore, folder: "_Folder", now: int) -> Export:
    done, upto = folder.upto, store.latest()
    if not done and not upto:
        raise ConfigError(NO_EVENTS)
    if upto < done:
        raise ConfigError(
            f"{folder.root} holds the events up to number {done}, but the store has only {upto}: the folder is the export of "
            "another store; name another folder"
        )
    folder.goes_to = upto
    folder.forget(store.forgotten(done))
    waiting, events = folder.waiting, 0
    for piece in store.read(done + 1, upto):
        events += piece.num_rows
        waiting = folder.take(pa.concat_tables([waiting, piece]))
    late = pc.less(waiting["at"], now - MAX_WAIT)
    clicks = _shown(waiting.filter(pc.and_(late, pc.equal(waiting["kind"], "click"))), clicked=True, seen=True)
    folder.merge(folder._with_kinds(clicks))
    folder.delete_unseen(now // DAY - MAX_UNSEEN_DAYS)
    folder.finish(waiting.filter(pc.invert(late)), upto)
    if folder.newest_at:
        store.exported(upto, folder.newest_at)
    return Export(events, folder.added, len(folder.written), folder.waiting.num_rows, upto)


@dataclass
class _Folder:
    fs: pafs.FileSystem
    root: str
    exposure: Exposure = "impression"
    kinds: Sequence[str] = ()  # of events beside rayrec's own, each of which is a column
    goes_to: int = 0  # the number of the last event that this export reads
    added: int = 0  # rows
    written: set[int] = field(default_factory=set)  # days

    def __post_init__(self) -> None:
        self.waiting, self.upto, self.newest_at = tables.empty("events"), 0, 0
        if self.fs.get_file_info(f"{self.root}/{STATE}").is_file:
            state = self._read(f"{self.root}/{STATE}")
            self.waiting = tables.conform("events", state)
            self.upto, self.newest_at = (int(state.schema.metadata[name]) for name in (b"upto", b"newest_at"))
            earlier = state.schema.metadata.get(OWN_KINDS, b"").decode().split()
            self.kinds = list(dict.fromkeys([*earlier, *self.kinds]))  # also those that the config no longer names

    @property
    def rows(self) -> pa.Schema:
        """`ROWS`, and whether there was an event of each kind of one's own."""
        return pa.schema([*ROWS, *(pa.field(kind, pa.bool_()) for kind in self.kinds)], metadata=ROWS.metadata)

    def _with_kinds(self, rows: pa.Table, events: pa.Table | None = None) -> pa.Table:
        """Rows with a column for each kind of one's own. Impressions have none of them; an answer says nothing of other kinds."""
        yes, no, unknown = pa.scalar(True), pa.scalar(False), pa.scalar(None, pa.bool_())
        for kind in self.kinds:
            found = pa.repeat(no, rows.num_rows) if events is None else pc.if_else(pc.equal(events["kind"], kind), yes, unknown)
            rows = rows.append_column(kind, found)
        return rows.cast(self.rows)

    def forget(self, digests: set[str]) -> None:
        """Removes the rows of these users; all of them are older than the request to forget the user."""

        def without_them(table: pa.Table) -> pa.Table:
            gone = [user for user in pc.unique(table["user_id"]).to_pylist() if digest(user) in digests]
            return table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(gone, TEXT)))) if gone else table

        if digests:
            self.waiting = without_them(self.waiting)
            for day in {*self.seen, *self.unseen}:
                table = self._day(day)
                self._write(day, table, without_them(table))

    def take(self, events: pa.Table) -> pa.Table:
        """Adds events to the days of their impressions; returns the events whose impression has not arrived."""
        is_shown = pc.equal(events["kind"], "impression")
        seen, answers = self.exposure == "impression", events.filter(pc.invert(is_shown))
        shown = _shown(events.filter(is_shown), clicked=False, seen=seen)
        candidates = pa.concat_tables([shown.select(KEY), self._shown_before(answers)])
        row = _answered(answers, candidates)
        found = pa.array(row >= 0)
        known = answers.filter(found)
        answered = self._with_kinds(_answers(known, candidates.take(pa.array(row[row >= 0])), not seen), known)
        self.merge(pa.concat_tables([self._with_kinds(shown), answered]))
        return answers.filter(pc.invert(found))

    def merge(self, rows: pa.Table) -> None:
        """Adds impressions, or what users did with impressions that are there already."""
        rows = rows.set_column(ROWS.get_field_index(EXPORT), ROWS.field(EXPORT), pa.repeat(pa.scalar(self.goes_to), rows.num_rows))
        days = rows["delivered_at"].to_numpy() // DAY
        for day in np.unique(days).tolist():
            old = self._day(day)
            grouped = pa.concat_tables([old, rows.filter(pa.array(days == day))]).group_by(KEY, use_threads=False)
            ways = MERGED | dict.fromkeys(self.kinds, "any")
            merged = grouped.aggregate(list(ways.items()))
            names = {f"{column}_{how}": column for column, how in ways.items()}
            merged = merged.rename_columns([names.get(name, name) for name in merged.column_names])
            merged = merged.select(self.rows.names).cast(self.rows)
            self._write(day, old, merged.sort_by([("shown_at", "ascending"), ("delivered_at", "ascending")]))
            self.newest_at = max(self.newest_at, pc.max(merged["shown_at"]).as_py() or 0)

    def finish(self, waiting: pa.Table, upto: int) -> None:
        self.waiting, self.upto = waiting, upto
        facts = {b"upto": str(upto), b"newest_at": str(self.newest_at)}
        facts |= {OWN_KINDS: " ".join(self.kinds)} if self.kinds else {}
        self._write_file(STATE, waiting.replace_schema_metadata(facts))

    def delete_unseen(self, before: int) -> None:
        """Deletes what was delivered before this day and never seen."""
        for day in [day for day in self.unseen if day < before]:
            self.fs.delete_file(self.unseen.pop(day))

    @cached_property
    def seen(self) -> dict[int, str]:
        """The path of each day's file, by the number of the day since 1970."""
        return self._files("")

    @cached_property
    def unseen(self) -> dict[int, str]:
        """Likewise of the files of impressions that nobody has seen."""
        return self._files(UNSEEN)

    def _files(self, prefix: str) -> dict[int, str]:
        found = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        names = {item.path: item.base_name.removesuffix(".parquet") for item in found if item.base_name.endswith(".parquet")}
        days = {path: name.removeprefix(prefix) for path, name in names.items() if name.startswith(prefix)}
        return {int(np.datetime64(day, "D").astype(int)): path for path, day in days.items() if day[0].isdigit()}

    def _shown_before(self, answers: pa.Table) -> pa.Table:
        """The impressions in the files that these events may belong to: the `KEY` columns, for their users and the days before."""
        near = [ROWS.empty_table().select(KEY)]
        if answers.num_rows:
            days = answers["at"].to_numpy() // DAY
            theirs = pc.field("user_id").isin(pc.unique(answers["user_id"]))
            near += [
                _with_delivery(self._read(path, filters=theirs)).select(KEY).cast(near[0].schema)
                for files in (self.seen, self.unseen)
                for day, path in files.items()
                if days.min() - MAX_DELAY_DAYS <= day <= days.max()
            ]
        return pa.concat_tables(near)

    def _day(self, day: int) -> pa.Table:
        """The rows of a day, those that nobody has seen last. Files of earlier versions have fewer columns and narrower text."""
        found = [self.rows.empty_table()]
        for files in (self.seen, self.unseen):
            if day in files:
                rows = _with_delivery(self._read(files[day]))
                for name in [name for name in self.rows.names if name not in rows.column_names]:
                    rows = rows.append_column(name, pa.nulls(rows.num_rows, self.rows.field(name).type))
                found.append(rows.select(self.rows.names).cast(self.rows))
        return pa.concat_tables(found)

    def _read(self, path: str, **what: object) -> pa.Table:
        return pq.read_table(path, filesystem=self.fs, partitioning=None, **what)

    def _write(self, day: int, old: pa.Table, table: pa.Table) -> None:
        """Writes what has changed. A row is in its new file before it is taken out of the old one."""
        for files, prefix, is_ours in ((self.seen, "", pc.is_valid), (self.unseen, UNSEEN, pc.is_null)):
            before, after = (rows.filter(is_ours(rows["shown_at"])) for rows in (old, table))
            if after.equals(before):
                continue
            name = f"{prefix}{np.datetime64(day, 'D')}.parquet"
            self._write_file(name, after)
            files[day] = f"{self.root}/{name}"
            if not prefix:
                self.added += max(0, after.num_rows - before.num_rows)
                self.written.add(day)

    def _write_file(self, name: str, table: pa.Table) -> None:
        with pa.BufferOutputStream() as stream:
            pq.write_table(table, stream, compression="zstd")
            write_whole(self.fs, f"{self.root}/{name}", stream.getvalue())


def _with_delivery(rows: pa.Table) -> pa.Table:
    """Impressions with the times of their deliveries, which files of earlier versions call the times when they were shown."""
    return rows if "delivered_at" in rows.column_names else rows.append_column("delivered_at", rows["shown_at"])


def _shown(events: pa.Table, clicked: bool, seen: bool) -> pa.Table:
    """Makes an impression of each event, which counts as seen or not."""
    no = pa.repeat(pa.scalar(False), events.num_rows)
    columns = {name: events[name] for name in ("user_id", "video_id", "watch_s", "request_id", "arm", CONTEXT, *PLACE, "dwell_s")}
    columns |= {"delivered_at": events["at"], "shown_at": events["at"] if seen else pa.nulls(events.num_rows, TIME)}
    columns |= {"clicked": pa.repeat(pa.scalar(clicked), events.num_rows), "liked": no, "skipped": no}
    columns |= {f"{done}_at": pa.nulls(events.num_rows, TIME) for done in KINDS}
    columns |= {"clicked_at": events["at"]} if clicked else {}
    columns |= _draws(events)
    columns[EXPORT] = pa.nulls(events.num_rows, pa.int64())
    return pa.table(columns).select(ROWS.names).cast(ROWS)


def _draws(events: pa.Table) -> dict[str, pa.Array]:
    """The columns of `DRAWN`."""
    facts = [json.loads(text) if text else {} for text in events["draw"].to_pylist()]
    for each in facts:
        if AMONG in each:
            each[AMONG] = json.dumps(each[AMONG], ensure_ascii=False)
    return {name: pa.array([each.get(name) for each in facts], kind) for name, kind in DRAWN.items()}


def _answers(events: pa.Table, impressions: pa.Table, are_views: bool) -> pa.Table:
    """What the events say about the impressions (`KEY` columns, row by row) that they belong to.

    `are_views`: also that the video had been seen, which a clock that is slow must not date before the delivery.
    """
    columns = {name: impressions[name] for name in KEY} | {name: events[name] for name in ("watch_s", "dwell_s")}
    columns |= {name: pa.nulls(events.num_rows, ROWS.field(name).type) for name in ("arm", CONTEXT, *PLACE, *DRAWN)}
    is_view = pc.and_(pa.scalar(are_views), pc.invert(pc.is_in(events["kind"], pa.array(TAKES_BACK, TEXT))))
    seen_at = pc.max_element_wise(events["at"], impressions["delivered_at"])
    columns["shown_at"] = pc.if_else(is_view, seen_at, pa.scalar(None, TIME))
    for done, kind in KINDS.items():
        is_this = pc.equal(events["kind"], kind)
        columns |= {done: is_this, f"{done}_at": pc.if_else(is_this, events["at"], pa.scalar(None, TIME))}
    columns[EXPORT] = pa.nulls(events.num_rows, pa.int64())
    return pa.table(columns).select(ROWS.names).cast(ROWS)


def _answered(answers: pa.Table, candidates: pa.Table) -> np.ndarray:
    """The row in `candidates` of the impression that each event belongs to, or -1 if there is none.

    It is the impression of the same user, video and request, otherwise the latest earlier impression of the video to the user.
    """
    user, video, request = (_codes(candidates[name], answers[name]) for name in ("user_id", "video_id", "request_id"))
    at = np.concatenate([candidates["delivered_at"].to_numpy(), answers["at"].to_numpy()])
    shown = np.arange(len(at)) < candidates.num_rows
    pair = np.unique(user * (len(at) + 1) + video, return_inverse=True)[1]
    by_request = _last_shown(np.where(request < 0, -1, pair * (len(at) + 1) + request), np.zeros_like(at), shown)
    by_request[request < 0] = -1
    return np.where(by_request < 0, _last_shown(pair, at, shown), by_request)[candidates.num_rows :]


def _codes(first: pa.ChunkedArray, second: pa.ChunkedArray) -> np.ndarray:
    """Numbers the strings of two columns, one column after the other: equal strings have equal numbers, null has -1."""
    both = pa.chunked_array([*first.chunks, *second.chunks], TEXT).combine_chunks()
    return both.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)


def _last_shown(group: np.ndarray, at: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """For each row, the latest row of its group up to it that is `shown`, or -1 if there is none."""
    order = np.lexsort((~shown, at, group))  # of events at the same time, the impression is the first
    last = np.maximum.accumulate(np.where(shown[order], np.arange(len(order)), -1))
    same = (last >= 0) & (group[order][last] == group[order])
    found = np.full(len(order), -1)
    found[order[same]] = order[last[same]]
    return found
