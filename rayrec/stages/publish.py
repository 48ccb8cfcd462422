"""The stage `publish`: makes a bundle from the tables and the trained ranker.

The items are the videos of the present catalog, in its order. The ranker's item table is encoded again from this catalog with the
trained encoders, so that a video that arrived after the training is an item like any other. Columns that a data set lacks (topics,
covers) stay empty.
"""

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import settings_of
from rayrec.data.loading import MAY_READ, RANKER, READS, joined_items
from rayrec.ranking.scorer import Scorer
from rayrec.recall.items import item_vectors
from rayrec.serving import bundle
from rayrec.serving.recommender import MAX_SEEN
from rayrec.workspace.stage import Stage, StageRun


def publish(run: StageRun) -> None:
    """The work of the stage. It reads the catalog, the interactions and the files of `train`.

    If they exist, it also reads topics, topic_centres, embeddings, features, the other tables that the ranker uses, and the report
    of `evaluate`.
    """
    trained = Scorer.load(run.fs, f"{run.input_folder('train')}/{RANKER}")
    scorer = trained.with_items(joined_items(run, trained.settings))
    log = run.read("interactions")
    item = scorer.items.rows_of(log["video_id"].combine_chunks())
    items = item_table(run, scorer.item_ids[1:], item, log["clicked"].to_numpy())
    max_clicks = max(run.config.recall.clicks, run.config.ranker.history_length)
    tables = {"items": items, "topics": topic_table(run), "users": user_table(log, item, max_clicks)}
    # A log with times in the future must not hide the events of today.
    log_until = min(pc.max(log["shown_at"]).as_py() or 0, int(time.time() * 1000))
    folder = f"{run.folder}/{bundle.FOLDER}"
    run.fs.create_dir(folder, recursive=True)
    run.fs.delete_dir_contents(folder)  # which a killed run may have left
    bundle.write(run.fs, folder, bundle.BundleInfo(log_until, max_clicks, metrics_of(run)), tables, scorer)
    run.count(rows_in=log.num_rows, rows_out=items.num_rows)


def item_table(run: StageRun, ids: list[str], item: np.ndarray, clicked: np.ndarray) -> pa.Table:
    """`bundle.ITEMS` for videos in this order. `item` (an index) and `clicked` are the log's rows."""
    catalog = _aligned(run.read("catalog"), ids)
    columns = {name: catalog[name] for name in bundle.ITEMS.names if name in catalog.column_names}
    for table, names in (("topics", ("topics", "similarity")), ("features", ("cover_jpeg",))):
        found = run.read_if_there(table)
        aligned = _aligned(found, ids) if found is not None else None
        columns |= {
            name: aligned[name] if aligned is not None else pa.nulls(len(ids), bundle.ITEMS.field(name).type) for name in names
        }
    columns["vector"] = _as_lists(item_vectors(run.read_if_there("embeddings"), ids), len(ids))
    columns["exposures"] = np.bincount(item, minlength=len(ids) + 1)[1:]
    columns["clicks"] = np.bincount(item[clicked], minlength=len(ids) + 1)[1:]
    return pa.table(columns)


def metrics_of(run: StageRun) -> dict[str, float]:
    """The metrics of exactly this ranker from `evaluate`; empty when `evaluate` has not run since the training."""
    evaluated = run.workspace.manifest("evaluate")
    if evaluated is None or evaluated.inputs["train"] != run.input_folder("train").rsplit("/", 1)[1]:
        return {}
    report = json.loads(run.workspace.read_file(f"{run.workspace.folder('evaluate')}/report.json"))
    served = next(iter(report["clicks"]))  # `evaluate` puts the ranker that is served first
    return {**report["clicks"][served], **report["pages"][served], "candidate_recall": report["candidate_recall"]}


def topic_table(run: StageRun) -> pa.Table:
    """`bundle.TOPICS`, without rows when the topics stage has not run."""
    centres = run.read_if_there("topic_centres")
    if centres is None:
        return bundle.TOPICS.empty_table()
    return pa.table({"topic": centres["topic"], "words": centres["tags"], "videos": centres["videos"]})


def user_table(log: pa.Table, item: np.ndarray, max_clicks: int) -> pa.Table:
    """`bundle.USERS`: the last clicks of each user and the last distinct videos that they were shown.

    `item` is the item index of each row of the log, 0 for a video that is not in the catalog.
    """
    users = log["user_id"].combine_chunks().dictionary_encode()
    user, at = users.indices.to_numpy(), log["shown_at"].to_numpy()
    clicked = log["clicked"].to_numpy() & (item > 0)
    clicks = _Latest(user[clicked], at[clicked], max_clicks)
    clicked_items, clicked_at = item[clicked][clicks.rows], at[clicked][clicks.rows]
    # The last time that each video was shown to each user.
    order = np.lexsort((at, item, user))
    last = order[np.append((np.diff(user[order]) != 0) | (np.diff(item[order]) != 0), True)] if len(order) else order
    last = last[item[last] > 0]
    seen = _Latest(user[last], at[last], MAX_SEEN)
    count = len(users.dictionary)
    table = pa.table(
        {
            "user_id": users.dictionary,
            "clicked": clicks.lists(clicked_items.astype(np.int32), count),
            "clicked_at": clicks.lists(clicked_at, count),
            "seen": seen.lists(item[last][seen.rows].astype(np.int32), count),
        }
    )
    return table.sort_by("user_id")


class _Latest:
    """The rows of the `count` latest times of each user, sorted by user and then by time."""

    def __init__(self, user: np.ndarray, at: np.ndarray, count: int) -> None:
        order = np.lexsort((at, user))
        user = user[order]
        from_end = np.searchsorted(user, user, side="right") - np.arange(len(user))
        self.rows = order[from_end <= count]
        self.user = user[from_end <= count]

    def lists(self, values: np.ndarray, users: int) -> pa.ListArray:
        """The values of these rows as one list for each of so many users."""
        return pa.ListArray.from_arrays(np.searchsorted(self.user, np.arange(users + 1)).astype(np.int32), pa.array(values))


def _aligned(table: pa.Table, ids: list[str]) -> pa.Table:
    """The rows of the videos in the order of `ids`, with nulls for videos that are not in the table."""
    rows = pc.index_in(pa.array(ids, pa.string()), value_set=table["video_id"].combine_chunks())
    return table.take(rows).set_column(table.column_names.index("video_id"), "video_id", pa.array(ids, pa.string()))


def _as_lists(vectors: np.ndarray | None, count: int) -> pa.Array:
    """`count` vectors as an Arrow column, which is null when there are none."""
    if vectors is None:
        return pa.nulls(count, bundle.ITEMS.field("vector").type)
    return pa.LargeListArray.from_arrays(np.arange(count + 1) * vectors.shape[1], vectors.ravel())


STAGE = Stage(
    "publish",
    publish,
    reads=READS,
    may_read=(*MAY_READ, "features", "topic_centres", "embeddings", "predictions"),
    after=("train",),
    settings=lambda config: settings_of(config.recall),
)
