"""The stage `publish`: makes a bundle from the tables and the trained ranker; without a ranker while there is no log.

The items are the videos of the present catalog, in its order. The ranker's item table is encoded again from this catalog with the
trained encoders, so that a video that arrived after the training is an item like any other. Columns that a data set lacks (topics,
covers) stay empty.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import settings_of
from rayrec.data.context import DAY_MS, NO_CONTEXT
from rayrec.data.loading import MAY_READ, RANKER, READS, joined_items
from rayrec.data.pieces import LogPieces
from rayrec.data.popularity import DailyCounts, FadingCounts
from rayrec.data.shares import GROUP_ROWS, Share
from rayrec.ranking.scorer import Scorer
from rayrec.recall.items import ItemData, item_vectors
from rayrec.recall.queues import ItemTopics
from rayrec.recall.sources.user_vector import exact_videos
from rayrec.serving import bundle, covers, log_summary, music, placing, searching
from rayrec.serving.bundle import BundleError
from rayrec.serving.learned import tables_of
from rayrec.stages import learned
from rayrec.stages.encode import STAGE as ENCODE
from rayrec.stages.encode import encoded_log
from rayrec.tables import TABLES, TEXT
from rayrec.workspace.files import from_json
from rayrec.workspace.stage import OPTIONAL, Stage, StageRun, lacks_log


def publish(run: StageRun) -> None:
    """The work of the stage. It reads the catalog, the encoded log, the interactions and the files of `train`.

    If they exist, it also reads topics, topic_centres, tag_vectors, embeddings, collaborative_items, features, search_vectors, the
    tables of music, the other tables that the ranker uses, what describes new videos, and the report of `evaluate`. While the log
    is empty, the bundle has no ranker.
    """
    found = _without_log(run) if lacks_log(run.workspace) else _with_log(run)
    if not found.ids:
        raise BundleError("the catalog holds no video, so a bundle would answer nothing; `rayrec rejects CONFIG` says why")
    items = item_table(run, found.ids) | {"exposures": found.exposures, "clicks": found.clicks}
    folder = f"{run.folder}/{bundle.FOLDER}"
    run.fs.create_dir(folder, recursive=True)
    run.fs.delete_dir_contents(folder)  # which a killed run may have left
    placing.write(run.workspace, folder)
    searching.write(run, folder, found.ids)
    others = {**found.collaborative, **music.tables_of(run)}
    bundle.write(run.fs, folder, found.info, pa.table(items), topic_table(run), found.users, found.scorer, others)
    run.count(rows_in=run.workspace.rows("interactions"), rows_out=len(found.ids))


@dataclass(frozen=True)
class FromLog:
    """What a bundle has of the log."""

    ids: list[str]  # of the items
    exposures: np.ndarray  # int64, of each item
    clicks: np.ndarray
    info: bundle.BundleInfo
    users: Iterable[pa.Table]  # pieces of `user_log.USERS`
    scorer: Scorer | None
    collaborative: Mapping[str, pa.Table] = field(default_factory=dict)  # of `serving.learned.TABLES`


def _with_log(run: StageRun) -> FromLog:
    trained = Scorer.load(run.fs, f"{run.input_folder('train')}/{RANKER}")
    scorer = trained.with_items(joined_items(run, trained.settings))
    ids = scorer.item_ids[1:]
    bare = ItemData(ItemTopics.of(scorer.item_ids, None), np.zeros(len(ids) + 1, np.int32))
    items = learned.with_learned(run, bare, scorer.item_ids)
    encoded, log = encoded_log(run), LogPieces.of(run.fs, run.part_digests("interactions"))
    scorer = _with_latest_counts(scorer, encoded.daily)
    user_ids = encoded.users.ids
    shares = list(Share.in_groups(encoded, GROUP_ROWS, NO_CONTEXT, len(user_ids) + 1))
    exposures, clicks = np.sum([log_summary.exposures_and_clicks(share, len(ids) + 1) for share in shares], axis=0)
    # A log with times in the future must not hide the events of today.
    log_until = min(log.pieces[-1].end, int(time.time() * 1000))
    max_clicks = max(run.config.recall.clicks, scorer.model.window.reach)
    upto, goals = log_summary.exported_upto(log), list(trained.settings.goals)
    info = bundle.BundleInfo(log_until, max_clicks, metrics_of(run), log_upto=upto, goals=goals)
    seen_since = log_until - int(run.config.recall.seen_days * DAY_MS)
    users = (log_summary.user_table(share, user_ids, max_clicks, seen_since) for share in shares)
    tables = tables_of(items.neighbours, items.vectors, exact_videos(run.config.recall))
    return FromLog(ids, exposures[1:], clicks[1:], info, users, scorer, tables)


def _without_log(run: StageRun) -> FromLog:
    ids = run.read("catalog", ["video_id"])["video_id"].to_pylist()
    info = bundle.BundleInfo(log_until=0, max_clicks=run.config.recall.clicks, has_ranker=False)
    nothing = np.zeros(len(ids), np.int64)
    return FromLog(ids, nothing, nothing, info, [], None)


def _with_latest_counts(scorer: Scorer, daily: DailyCounts) -> Scorer:
    """The ranker with what the log says at its end of how popular videos are, if it knows any of that.

    The items of the encoded log are those of the catalog, too. They are compared with the mean over those that training had.
    """
    if scorer.popularity is None:
        return scorer
    counts = FadingCounts.of(daily, scorer.settings.half_lives, len(scorer.item_ids)).latest
    return scorer.over(scorer.items, replace(counts, items=scorer.popularity.items))


def item_table(run: StageRun, ids: list[str]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns of `bundle.ITEMS` that do not come from the log, for videos in this order."""
    catalog = [name for name in bundle.FACTS if name in TABLES["catalog"].schema.names]
    columns = _aligned(run.read("catalog", catalog), ids, catalog)
    columns |= _aligned(run.read_if_there("topics", ["video_id", "topics", "similarity"]), ids, ["topics", "similarity"])
    columns |= _aligned(covers.publish(run), ids, list(covers.PLACE))
    embeddings = run.read_if_there("embeddings", ["video_id", "vector"])
    return columns | {"vector": _as_lists(item_vectors(embeddings, ids), len(ids))}


def metrics_of(run: StageRun) -> dict[str, float | None]:
    """The metrics of exactly this ranker from `evaluate`; empty when `evaluate` has not run since the training."""
    evaluated = run.workspace.manifest("evaluate")
    if evaluated is None or evaluated.inputs["train"] != run.input_folder("train").rsplit("/", 1)[1]:
        return {}
    report = from_json(run.workspace.read_file(f"{run.workspace.check('evaluate')}/report.json"))
    served = next(iter(report["clicks"]))  # `evaluate` puts the ranker that is served first
    return {**report["clicks"][served], **report["pages"][served], "candidate_recall": report["candidate_recall"]}


def topic_table(run: StageRun) -> pa.Table:
    """`bundle.TOPICS`, without rows when the topics stage has not run."""
    centres = run.read_if_there("topic_centres")
    if centres is None:
        return bundle.TOPICS.empty_table()
    return pa.table({"topic": centres["topic"], "words": centres["tags"], "videos": centres["videos"]})


def _aligned(table: pa.Table | None, ids: list[str], columns: list[str]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Columns of `bundle.ITEMS` in the order of `ids`: null for videos that are not in the table, and all null without one."""
    if table is None:
        return {name: pa.nulls(len(ids), bundle.ITEMS.field(name).type) for name in columns}
    rows = pc.index_in(pa.array(ids, TEXT), value_set=table["video_id"].combine_chunks())
    return {name: table[name].combine_chunks().take(rows) for name in columns}


def _as_lists(vectors: np.ndarray | None, count: int) -> pa.Array:
    """`count` vectors as an Arrow column, which is null when there are none."""
    if vectors is None:
        return pa.nulls(count, bundle.ITEMS.field("vector").type)
    return pa.LargeListArray.from_arrays(np.arange(count + 1) * vectors.shape[1], vectors.ravel())


STAGE = Stage(
    "publish",
    publish,
    reads=(*READS, "interactions"),
    may_read=(
        *(*MAY_READ, *learned.MAY_READ, *music.MAY_READ),
        *("features", "topic_centres", "tag_vectors", "predictions", "search_vectors"),
    ),
    after=("train", "encode"),
    log=OPTIONAL,
    first=(ENCODE,),
    # A bundle that an earlier rayrec published lacks what describes new videos, and is made again.
    settings=lambda config: settings_of(config.recall) | learned.settings(config) | music.settings(config) | {"placing": True},
)
