"""The stage `publish`: the tables and the trained ranker become a bundle.

The items are the videos of today's catalog, in its order. The ranker's item table is made anew from it with the trained encoders,
so that a video that came after the training is an item like any other. What a data set lacks (topics, covers) stays empty.
"""

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import settings_of
from rayrec.data.loading import MAY_READ, RANKER, READS, joined_items
from rayrec.ranking.scorer import Scorer
from rayrec.serving import bundle
from rayrec.serving.recommender import MAX_SEEN
from rayrec.workspace.stage import Stage, StageRun


def publish(run: StageRun) -> None:
    """Reads catalog, interactions and the files of `train`; where they are there, also topics, topic_centres, embeddings, features,
    what the ranker uses beside them, and the report of `evaluate`."""
    trained = Scorer.load(run.fs, f"{run.input_folder('train')}/{RANKER}")
    scorer = trained.with_items(joined_items(run, trained.settings))
    log = run.read("interactions")
    item = scorer.items.rows_of(log["video_id"].combine_chunks())
    items = item_table(run, scorer.item_ids[1:], item, log["clicked"].to_numpy())
    max_clicks = max(run.config.recall.clicks, run.config.ranker.history_length)
    tables = {"items": items, "topics": topic_table(run), "users": user_table(log, item, max_clicks)}
    # A log with times to come must not hide the events of today.
    log_until = min(pc.max(log["shown_at"]).as_py() or 0, int(time.time() * 1000))
    folder = f"{run.folder}/{bundle.FOLDER}"
    run.fs.create_dir(folder, recursive=True)
    run.fs.delete_dir_contents(folder)  # of a run that was killed
    bundle.write(run.fs, folder, bundle.Facts(log_until, max_clicks, metrics_of(run)), tables, scorer)
    run.count(rows_in=log.num_rows, rows_out=items.num_rows)


def item_table(run: StageRun, ids: list[str], item: np.ndarray, clicked: np.ndarray) -> pa.Table:
    """`bundle.ITEMS` for videos in this order; `item` and `clicked` are the log's rows."""
    catalog = _aligned(run.read("catalog"), ids)
    columns = {name: catalog[name] for name in bundle.ITEMS.names if name in catalog.column_names}
    for table, names in (("topics", ("topics", "similarity")), ("features", ("cover_jpeg",)), ("embeddings", ("vector",))):
        found = run.read_if_there(table)
        aligned = _aligned(found, ids) if found is not None else None
        columns |= {
            name: aligned[name] if aligned is not None else pa.nulls(len(ids), bundle.ITEMS.field(name).type) for name in names
        }
    columns["vector"] = _dense(columns["vector"])
    columns["exposures"] = np.bincount(item, minlength=len(ids) + 1)[1:]
    columns["clicks"] = np.bincount(item[clicked], minlength=len(ids) + 1)[1:]
    return pa.table(columns)


def metrics_of(run: StageRun) -> dict[str, float]:
    """How good `evaluate` found this very ranker; nothing where it has not run since the training."""
    judged = run.workspace.manifest("evaluate")
    if judged is None or judged.inputs["train"] != run.input_folder("train").rsplit("/", 1)[1]:
        return {}
    report = json.loads(run.workspace.read_file(f"{run.workspace.folder('evaluate')}/report.json"))
    served = next(iter(report["clicks"]))  # `evaluate` puts the ranker that is served first
    return {**report["clicks"][served], **report["pages"][served], "candidate_recall": report["candidate_recall"]}


def topic_table(run: StageRun) -> pa.Table:
    centres = run.read_if_there("topic_centres")
    if centres is None:
        return bundle.TOPICS.empty_table()
    return pa.table({"topic": centres["topic"], "words": centres["tags"], "videos": centres["videos"]})


def user_table(log: pa.Table, item: np.ndarray, max_clicks: int) -> pa.Table:
    """`bundle.USERS`: the last clicks of each user and the last distinct videos that they were shown; `item` is the log's rows."""
    users = log["user_id"].combine_chunks().dictionary_encode()
    user, at = users.indices.to_numpy(), log["shown_at"].to_numpy()
    clicked = log["clicked"].to_numpy() & (item > 0)
    clicks = _Latest(user[clicked], at[clicked], max_clicks)
    clicked_items, clicked_at = item[clicked][clicks.rows], at[clicked][clicks.rows]
    # The last time that each pair was shown.
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
    """Which rows are the `most` latest of each user: by user, oldest first."""

    def __init__(self, user: np.ndarray, at: np.ndarray, most: int) -> None:
        order = np.lexsort((at, user))
        user = user[order]
        from_end = np.searchsorted(user, user, side="right") - np.arange(len(user))
        self.rows = order[from_end <= most]
        self.user = user[from_end <= most]

    def lists(self, values: np.ndarray, count: int) -> pa.ListArray:
        """The values of these rows as one list for each of `count` users."""
        return pa.ListArray.from_arrays(np.searchsorted(self.user, np.arange(count + 1)).astype(np.int32), pa.array(values))


def _aligned(table: pa.Table, ids: list[str]) -> pa.Table:
    """The rows of the videos in the order of `ids`; nulls for those that the table lacks."""
    rows = pc.index_in(pa.array(ids, pa.string()), value_set=table["video_id"].combine_chunks())
    return table.take(rows).set_column(table.column_names.index("video_id"), "video_id", pa.array(ids, pa.string()))


def _dense(vectors: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Vectors of one size, with zeros in the place of nulls; as they are where all are null."""
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    if not present.any():
        return pa.nulls(len(vectors), bundle.ITEMS.field("vector").type)
    found = pc.list_flatten(vectors).to_numpy().reshape(present.sum(), -1)
    rows = np.zeros((len(vectors), found.shape[1]), dtype=np.float32)
    rows[present] = found
    return pa.LargeListArray.from_arrays(np.arange(len(rows) + 1) * rows.shape[1], rows.ravel())


STAGE = Stage(
    "publish",
    publish,
    reads=READS,
    may_read=(*MAY_READ, "features", "topic_centres", "embeddings", "predictions"),
    after=("train",),
    settings=lambda config: settings_of(config.recall),
)
