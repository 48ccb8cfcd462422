"""Rows of a log from columns that mean the same by other names: clicks from ratings or from seconds watched, and logs that have
neither labels nor times.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import ClickRule
from rayrec.datasets.conversion import Conventions, convert_rows
from rayrec.datasets.runs import PART
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.times import YEAR_1990, tomorrow
from rayrec.errors import did_you_mean
from rayrec.tables import PARTS, TEXT, TIME, TableError
from rayrec.values import texts_of

# What published data sets call the parts of a split, in lower case.
PART_NAMES = {"training": 0, "train": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2, "testing": 2}
RANDOM_SPLIT = "{}: there is no column 'shown_at', so the rows of each user are split at random (split.validation, split.test)"
GIVEN_SPLIT = "{}: the column 'shown_at' is not used, because the split is given"
CLICKS_ONLY = "{}: there is no column 'clicked', so every row counts as a click"
WATCHED = "; to make clicks of the seconds watched, set `dataset.click_rule`"
STRANGE_TIMES = (
    "{}: some impressions are from before 1990 or after tomorrow; numbers are read as {} (dataset.time_unit: auto, s, ms or us)"
)
BY_RULE = "{}: the column 'clicked' is not used, because `dataset.click_rule` says what a click is"


@dataclass(frozen=True)
class LogRules:
    """What the config says about the rows of a file."""

    conventions: Conventions
    click_rule: ClickRule | None = None
    part: int | str | None = None  # of the split: that of all rows, or the file's column that says it


def convert_log(raw: SourceTable, columns: dict[str, str], rules: LogRules) -> SourceTable:
    """Rows of a file as rows of the log; `columns` maps our names to the file's.

    A log without times, or with a given split, gets the column PART, and times when it is complete. With a click rule, `clicked` is
    left to `mark_clicks`. Raises `TableError` where the file has not what the rules need.
    """
    columns, remarks = _labelled(raw.source, columns, rules)
    columns, more_remarks = _timed(raw, columns, rules.part)
    rows = convert_rows("interactions", raw, columns, rules.conventions)
    rows.remarks += remarks + more_remarks
    if "shown_at" not in columns:
        _add_parts(rows, rules.part)
    elif _strange(rows.table["shown_at"]):
        rows.remarks.append(STRANGE_TIMES.format(raw.source, rules.conventions.time_unit))
    if "clicked" not in columns and not rules.click_rule:
        rows.table = rows.table.append_column("clicked", pa.array(np.ones(rows.table.num_rows, dtype=bool)))
    return rows


def _labelled(source: str, columns: dict[str, str], rules: LogRules) -> tuple[dict[str, str], list[str]]:
    """The columns with those from which clicks and ratings are made, and remarks on them."""
    columns, threshold = dict(columns), rules.conventions.click_at_least
    if rules.click_rule:
        if "watch_s" not in columns:
            raise TableError(
                f"{source}: dataset.click_rule needs the column 'watch_s'; name yours with "
                "`dataset.interactions_columns: {watch_s: ...}`, or remove the rule"
            )
        return columns, [BY_RULE.format(source)] if columns.pop("clicked", None) else []
    if "clicked" in columns:
        if threshold is not None and columns["clicked"] != columns.get("watch_s"):
            columns.setdefault("rating", columns["clicked"])
        return columns, []
    if "rating" in columns:
        if threshold is None:
            raise TableError(
                f"{source}: there is a column 'rating' but none 'clicked'; set `dataset.click_at_least` to the lowest rating that "
                "counts as a click"
            )
        return columns | {"clicked": columns["rating"]}, []
    if threshold is not None:
        raise TableError(
            f"{source}: dataset.click_at_least needs the column 'clicked' or 'rating'; name yours with "
            "`dataset.interactions_columns: {rating: ...}`, or remove click_at_least, so that every row counts as a click"
        )
    return columns, [CLICKS_ONLY.format(source) + (WATCHED if "watch_s" in columns else "")]


def _timed(raw: SourceTable, columns: dict[str, str], part: int | str | None) -> tuple[dict[str, str], list[str]]:
    """The columns with the times that count, if any do, or with the part of the split, and remarks on them."""
    if part is None and "shown_at" not in columns and "clicked" not in columns and "clicked_at" in columns:
        return columns | {"shown_at": columns["clicked_at"]}, []
    if part is None and "shown_at" in columns:
        return columns, []
    timeless = {ours: theirs for ours, theirs in columns.items() if ours not in ("shown_at", "clicked_at")}
    if part is None:
        return timeless, [RANDOM_SPLIT.format(raw.source)]
    if isinstance(part, str):
        if part not in raw.table.column_names:
            near = did_you_mean(part, raw.table.column_names)
            raise TableError(f"{raw.source}: dataset.split_column names the column {part!r}, which is missing{near}")
        timeless = {ours: theirs for ours, theirs in timeless.items() if theirs != part} | {PART: part}
    return timeless, [GIVEN_SPLIT.format(raw.source)] if "shown_at" in columns else []


def _strange(shown_at: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.or_(pc.less(shown_at, YEAR_1990), pc.greater(shown_at, tomorrow()))).as_py())


def _add_parts(rows: SourceTable, part: int | str | None) -> None:
    """Give rows without times the number of their part, and times that wait for those that are drawn.

    Where the file names the parts, a row whose part has another name is rejected.
    """
    count = rows.table.num_rows
    if not isinstance(part, str):
        rows.table = rows.table.append_column(PART, pa.array(np.full(count, part or 0, np.int8)))
    rows.table = rows.table.append_column("shown_at", pa.array(np.zeros(count, np.int64), TIME))
    if not isinstance(part, str):
        return
    if PART not in rows.table.column_names:
        raise TableError(f"{rows.source}: dataset.split_column: {part!r} is not a column of text")
    names = rows.table[PART].combine_chunks()
    names = pa.nulls(count, TEXT) if pa.types.is_null(names.type) else texts_of(names)
    known = pa.array(list(PART_NAMES), TEXT)
    place = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(names)), value_set=known)
    numbers = np.array(list(PART_NAMES.values()), np.int8)[place.fill_null(0).to_numpy()]
    rows.table = rows.table.set_column(rows.table.schema.get_field_index(PART), PART, pa.array(numbers))
    wanted = f"is none of {', '.join(PARTS)}"
    wrong = np.flatnonzero(place.is_null().to_numpy(zero_copy_only=False)).tolist()
    rows.reject({row: f"{part}: {str(names[row].as_py() or '')[:80]!r} {wanted}" for row in wrong}, "user_id")


def mark_clicks(rows: SourceTable, rule: ClickRule, durations: Callable[[pa.ChunkedArray], np.ndarray]) -> None:
    """Set `clicked` by the rule. A row without seconds is not a click; one whose video has no duration is rejected if it is needed.

    `durations` gives the seconds of the videos with these ids: float [rows], NaN where they are unknown.
    """
    table = rows.table
    watched = table["watch_s"].fill_null(0).to_numpy()
    if rule.watch_share is None:
        lengths, clicked = np.ones(len(watched)), watched >= (rule.watch_s or 0)
    else:
        lengths = durations(table["video_id"])
        clicked = watched >= rule.watch_share * lengths
    rows.table = table.set_column(table.schema.get_field_index("clicked"), "clicked", pa.array(clicked))
    reason = "has no duration_s in the catalog, which `dataset.click_rule` needs"
    ids = table["video_id"]
    rows.reject(
        {row: f"video_id: {ids[row].as_py()[:80]!r} {reason}" for row in np.flatnonzero(~(lengths > 0)).tolist()}, "user_id"
    )
