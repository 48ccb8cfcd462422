"""A log is cut by time, and every split follows the one before it."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Ranker, Split
from rayrec.data.fields import DataError
from rayrec.data.loading import RankingData, prepare
from rayrec.data.split import split_log, split_times


def test_the_shares_are_those_of_the_settings_in_any_order() -> None:
    shown = np.random.default_rng(0).permutation(1000)
    assert split_times(shown, Split(validation=0.3, test=0.2)) == (500, 800)


def test_moments_are_never_split() -> None:
    shown = np.repeat([1, 2, 3], [50, 10, 40])
    validation, test = split_times(shown, Split(validation=0.3, test=0.2))
    assert (validation, test) == (1, 3) or (validation, test) == (2, 3)


def test_a_log_in_pieces_is_cut_as_a_whole() -> None:
    shown = np.arange(100)
    found = split_log([shown[:30], shown[30:]], Split(validation=0.3, test=0.2))
    assert [found.train, found.validation, found.test] == [slice(0, 50), slice(50, 80), slice(80, 100)]
    assert found.validation_at == 50


def test_a_log_out_of_order_is_refused() -> None:
    with pytest.raises(DataError, match="not in the order of shown_at"):
        split_log([np.array([3, 1, 2])], Split())


def test_the_splits_follow_one_another_in_time_and_hold_the_whole_log(data: RankingData, raw: dict[str, pa.Table]) -> None:
    parts = [data.train, data.validation, data.test]
    assert sum(len(part) for part in parts) == raw["interactions"].num_rows
    assert data.train.at.max() < data.validation.at.min()
    assert data.validation.at.max() < data.test.at.min()
    assert len(data.test) / raw["interactions"].num_rows == pytest.approx(0.2, abs=0.02)
    assert data.test_log["shown_at"].to_numpy().tolist() == data.test.at.tolist()


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ([], "0 rows can't be split"),
        ([0, 1], "would be empty"),
        ([0] * 30 + [1] * 30, r"because validation would be empty \(split.v"),
    ],
)
def test_a_log_that_leaves_a_split_empty_is_refused(raw: dict[str, pa.Table], times: list[int], sentence: str) -> None:
    log = raw["interactions"].slice(0, len(times))
    log = log.set_column(log.column_names.index("shown_at"), "shown_at", pa.array(times, pa.int64()))
    with pytest.raises(DataError, match=sentence):
        prepare(log, raw["catalog"], None, Ranker(), Split())
