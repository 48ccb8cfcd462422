"""The places of an exported log whose videos were drawn, and what a ranker thinks of the videos that competed for them.

A ranker is asked as it would have been then: with what the user had clicked before the page, in the log and in the export, and with
the context of the request. What was said of a user by `POST /v1/users` is not in an export, so that training's knowledge counts.
"""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayrec.config import scored
from rayrec.data.history import ClickHistory, click_times
from rayrec.datasets.files import AMONG, CONTEXT
from rayrec.errors import RayrecError
from rayrec.evaluation.drawn_places import DrawnPlaces, Place
from rayrec.ranking.scorer import Scorer
from rayrec.tables import TEXT, TIME

AT_ONCE = 512  # places for which the ranker scores together
DRAWN = ["user_id", "video_id", "shown_at", "delivered_at", "clicked", "propensity", AMONG, CONTEXT]
CLICKS = ["user_id", "video_id", "shown_at", "clicked", "clicked_at"]


def day_files(fs: pafs.FileSystem, folder: str) -> list[str]:
    """The files of an export's days, the first day first. Raises `RayrecError` when there are none."""
    found = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    paths = sorted(item.path for item in found if item.base_name.endswith(".parquet") and item.base_name[0].isdigit())
    if not paths:
        raise RayrecError(f"off_policy.log: {folder} holds no exported log; `rayrec events export CONFIG --to FOLDER` makes one")
    return paths


def drawn_rows(fs: pafs.FileSystem, paths: list[str]) -> pa.Table:
    """The impressions whose videos were drawn, with the columns `DRAWN`. Raises `RayrecError` when there are none."""
    found = [
        pq.read_table(path, columns=DRAWN, filters=pc.field(AMONG).is_valid(), filesystem=fs, partitioning=None)
        for path in paths
        if AMONG in pq.read_schema(path, filesystem=fs).names  # older exports know of no draws
    ]
    rows = pa.concat_tables(found) if found else pa.table({name: [] for name in DRAWN})
    if not rows.num_rows:
        raise RayrecError(
            f"off_policy.log: no video in {paths[0].rpartition('/')[0]} was drawn; serve with `selection.explore` above 0, export "
            "again, and see that there are fresh videos (`recall.min_exposures`)"
        )
    return rows


def clicks_of(users: pa.Array, *logs: tuple[pafs.FileSystem, list[str]]) -> pa.Table:
    """What these users clicked and when: user_id, video_id and `at`, each click once however many of the logs' files hold it."""
    found = [pa.table({"user_id": pa.array([], TEXT), "video_id": pa.array([], TEXT), "at": pa.array([], TIME)})]
    wanted = pc.field("clicked") & pc.field("user_id").isin(users)
    for fs, path in ((fs, path) for fs, paths in logs for path in paths):
        names = [name for name in CLICKS if name in pq.read_schema(path, filesystem=fs).names]
        rows = pq.read_table(path, columns=names, filters=wanted, filesystem=fs, partitioning=None)
        columns = {name: rows[name].cast(TEXT) for name in ("user_id", "video_id")}
        found.append(pa.table(columns | {"at": pa.array(click_times(rows), TIME)}))
    clicks = pa.concat_tables(found)
    return clicks.group_by(clicks.column_names).aggregate([])


def places_of(rows: pa.Table, clicks: pa.Table, scorer: Scorer, formula: str | None = None) -> DrawnPlaces:
    """What became of each row (`drawn_rows`), and what the ranker thinks of the videos that competed (0 of an unknown one).

    A ranker with goals orders videos by the `formula` of these, or by the first one. Raises `RayrecError` for a row whose video is
    not among those that competed.
    """
    names = pc.unique(rows["user_id"])
    users, clickers = (pc.index_in(table["user_id"], value_set=names).to_numpy() for table in (rows, clicks))
    items = np.array([scorer.index_of(video) for video in clicks["video_id"].to_pylist()], np.int64)
    known = items > 0
    history = ClickHistory.of(clickers[known], items[known], clicks["at"].to_numpy()[known], len(names))
    # The clicks of the page itself came later than its request. torch wants to be able to write.
    at = pc.coalesce(rows["delivered_at"], rows["shown_at"]).to_numpy().copy()
    ends = history.ends(users, at)
    begins = np.maximum(history.offsets[users], ends - scorer.model.window.reach)

    def places() -> Iterator[Place]:
        for start in range(0, rows.num_rows, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            part = rows.slice(start, AT_ONCE).to_pylist()
            among = [json.loads(row[AMONG]) for row in part]
            candidates = np.zeros((len(part), max(map(len, among))), np.int64)
            for row, videos in enumerate(among):
                candidates[row, : len(videos)] = [scorer.index_of(video) for video in videos]
            known = [slice(begin, end) for begin, end in zip(begins[some], ends[some], strict=True)]
            past = [history.items[clicks] for clicks in known], [history.times[clicks] for clicks in known]
            said = [json.loads(row[CONTEXT] or "{}") for row in part]
            values = scorer.score([row["user_id"] for row in part], *past, at[some], candidates, said)
            goals = scorer.settings.goals
            scores = np.where(candidates > 0, scored(values, goals, formula), 0)
            expected = values[..., scorer.settings.click_goal] if goals else values
            for row, videos, user, *of_row in zip(part, among, users[some], scores, expected, strict=True):
                facts = int(user), row["clicked"], row["propensity"], _place_of(row["video_id"], videos)
                yield Place(*facts, *(each[: len(videos)] for each in of_row))

    return DrawnPlaces.of(places())


def _place_of(video_id: str, videos: list[str]) -> int:
    if video_id not in videos:
        raise RayrecError(f"off_policy.log: {video_id!r} was drawn, but is not among the videos {videos} that it was drawn from")
    return videos.index(video_id)
