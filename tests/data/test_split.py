"""A log is cut by time, and every split follows the one before it."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Ranker, Split
from rayrec.data.errors import DataError
from rayrec.data.loading import RankingData, prepare
from rayrec.data.split import split_in_memory, split_rows

NOW = 1_700_000_000_000


def test_the_shares_are_those_of_the_settings() -> None:
    found = split_in_memory(np.arange(NOW, NOW + 1000), Split(validation=0.3, test=0.2))
    assert [found.train, found.validation, found.test] == [slice(0, 500), slice(500, 800), slice(800, 1000)]
    assert (found.validation_at, found.test_at, found.by) == (NOW + 500, NOW + 800, "time")
    assert split_rows(1, Split(validation=0.3, test=0.2)) == (0, 0)


def test_moments_are_never_split() -> None:
    shown = np.repeat([NOW + 1, NOW + 2, NOW + 3], [50, 10, 40])
    found = split_in_memory(shown, Split(validation=0.3, test=0.2))
    assert (found.train_end, found.validation_end) == (50, 60)


def test_the_splits_follow_one_another_in_time_and_hold_the_whole_log(data: RankingData, raw: dict[str, pa.Table]) -> None:
    parts = [data.train, data.validation, data.test]
    assert sum(len(part) for part in parts) == raw["interactions"].num_rows
    assert data.train.at.max() < data.validation.at.min()
    assert data.validation.at.max() < data.test.at.min()
    assert len(data.test) / raw["interactions"].num_rows == pytest.approx(0.2, abs=0.02)
    assert sorted(raw["interactions"]["shown_at"].to_pylist())[-len(data.test) :] == data.test.at.tolist()


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ([], "0 rows can't be split"),
        ([NOW, NOW + 1], "would be empty"),
        (
            [NOW] * 30 + [NOW + 1] * 30,
            r"split by time into training, validation and test, because validation would be empty \(split.v",
        ),
    ],
)
def test_a_log_that_leaves_a_split_empty_is_refused(raw: dict[str, pa.Table], times: list[int], sentence: str) -> None:
    log = raw["interactions"].slice(0, len(times))
    log = log.set_column(log.column_names.index("shown_at"), "shown_at", pa.array(times, pa.int64()))
    with pytest.raises(DataError, match=sentence):
        prepare(log, raw["catalog"], None, Ranker(), Split())
