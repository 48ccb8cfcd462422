"""The stage `encode`: turns the log into examples and clicks, in shards by user, which training, evaluation and `publish` read.

Ids become numbers once, and not in each process that trains. A small log is encoded in this process, a large one by Ray's workers.
A run that was killed goes on with the pieces and shards that are missing. The stages that read the shards run this one first, so
that nobody has to remember it.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from rayrec.config import Config, settings_of
from rayrec.config.goals import WATCH_SHARE
from rayrec.data import encoding as steps
from rayrec.data.blocks import block_count
from rayrec.data.context import POSITION, refuse_times_of_day, refuse_unknown_context
from rayrec.data.encoding import EncodingJob
from rayrec.data.errors import DataError, refuse_no_clicks
from rayrec.data.goals import durations, label_rules, refuse_missing, refuse_without_values
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import KNOWN, EncodedLog, Known, LogFacts
from rayrec.stages.execution import Executor, executor_for
from rayrec.tables import TEXT
from rayrec.workspace.stage import NEEDED, Stage, StageRun

LOG_S = 10.0  # between two lines about the progress
CONTEXT, NEGATIVES = "ranker.context_fields", "training.negatives"

Result = TypeVar("Result")

log = logging.getLogger(__name__)


def encode(run: StageRun) -> None:
    """Write the shards. Raises `DataError` for a log or settings that no ranker can be trained on."""
    pieces = LogPieces.of(run.fs, run.part_digests("interactions"))
    encode_log(run, pieces, executor_for(pieces.rows, run.config))
    run.fs.delete_dir(f"{run.folder}/pieces")
    run.count(rows_in=pieces.rows, rows_out=pieces.rows)


def encode_log(run: StageRun, pieces: LogPieces, execute: Executor) -> None:
    """The work of the stage, whose pieces `execute` does."""
    fields = context_fields(run.config)
    refuse_unknown_context(fields, pieces.columns)
    rules = label_rules(run.config)
    refuse_missing(rules, pieces.columns)
    split = pieces.split(run.config.split)
    refuse_times_of_day(fields, split)
    pages = needs_pages(run.config)
    job = EncodingJob(run.fs, run.folder, split, block_count(split.train_end), run.config.encoding.shards, fields, pages, rules)
    found = _each("pieces", [functools.partial(steps.sort_piece, job, piece) for piece in pieces.pieces], execute)
    labels = {label for facts in found for label in facts.labels}
    refuse_no_clicks(labels, split.train_end)
    refuse_without_values(rules, {name for facts in found for name in facts.known})
    if pages and not any(facts.requests for facts in found):
        raise DataError(
            "training.negatives.by: page needs the column request_id, which the log lacks; give it, or choose uniform or popularity"
        )
    listed = run.read_if_there("users", ["user_id"])
    users = steps.number_users(job, len(found), pa.array([], TEXT) if listed is None else _ids(listed))
    items = steps.number_items(job, len(found), _ids(run.read("catalog", ["video_id"])))
    context = steps.number_context(job, len(found))
    sizes = np.array([facts.sizes for facts in found], dtype=np.int64)
    lengths = durations(run.read("catalog", ["duration_s"])) if WATCH_SHARE in set(job.labels) - set(pieces.columns) else None
    work = [functools.partial(steps.write_shard, job, shard, sizes, context, lengths) for shard in range(job.shards)]
    shards = _each("shards", work, execute)
    steps.write_daily_counts(job)
    for name, known in (("users", users), ("items", items)):
        steps.write_arrow(run.fs, f"{run.folder}/{name}.arrow", _table_of(known))
    facts = LogFacts(shards, split.test_at, context, split.by, labels == {True}, pages, split.validation_at, job.labels)
    EncodedLog(run.fs, run.folder, facts).finish()


def context_fields(config: Config) -> list[str]:
    """All context fields that the ranker, an arm of a comparison or a trial of a search may use."""
    found = list(config.ranker.context_fields)
    for values in config.comparison.arms.values():
        found += values.get(CONTEXT, [])
    for values in config.comparison.choices.values():
        found += [name for choice in values.get(CONTEXT, []) for name in choice]
    choices = config.tuning.space.get(CONTEXT, [])
    found += [name for choice in choices if isinstance(choice, list) for name in choice] if isinstance(choices, list) else []
    return list(dict.fromkeys(found))


def needs_pages(config: Config) -> bool:
    """Whether training, an arm of a comparison or a trial of a search draws negatives from the pages of clicks."""

    def by_page(value: Any) -> bool:
        return value == "page" or (isinstance(value, dict) and value.get("by") == "page")

    negatives = config.training.negatives
    found: list[Any] = [] if negatives is None else [negatives.by]
    for key in (NEGATIVES, f"{NEGATIVES}.by"):
        found += [values.get(key) for values in config.comparison.arms.values()]
        choices = config.tuning.space.get(key, [])
        found += choices if isinstance(choices, list) else []
    return any(map(by_page, found))


def encoded_log(run: StageRun) -> EncodedLog:
    """The current output of the stage, for a stage that reads it."""
    return EncodedLog.open(run.fs, run.input_folder("encode"))


def _each(name: str, work: Sequence[Callable[[], Result]], execute: Executor) -> list[Result]:
    """The results of pieces of work, in their order."""
    results: dict[int, Result] = {}
    logged = time.monotonic()
    for number, result in execute(work):
        results[number] = result
        if time.monotonic() - logged > LOG_S:
            log.info("encode: %d of %d %s", len(results), len(work), name)
            logged = time.monotonic()
    return [results[number] for number in range(len(work))]


def _ids(table: pa.Table) -> pa.Array:
    return pa.chunked_array(table.column(0)).cast(TEXT).combine_chunks()


def _table_of(known: Known) -> pa.Table:
    return pa.table({"id": known.ids, "trained": known.trained}, schema=KNOWN)


def settings(config: Config) -> dict[str, Any]:
    # An encoded log of an earlier rayrec lacks the daily counts or the end of its training split, and is made again.
    # So is one whose validation and test parts had positions.
    fields = sorted(context_fields(config))
    found = settings_of(config.split, config.encoding) | {"context_fields": fields, "format": 4 if POSITION in fields else 3}
    found |= {"labels": [list(astuple(rule)) for rule in rules]} if (rules := label_rules(config)) else {}
    return found | {"pages": needs_pages(config)}


STAGE = Stage("encode", encode, reads=("catalog", "interactions"), may_read=("users",), settings=settings, log=NEEDED)
