"""The context of the log's requests and of served requests is encoded in the same way."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.context import ContextEncoder, refuse_unknown_context
from rayrec.data.errors import DataError

TIMES = [datetime.datetime(2024, 2, 29, 23, 59, tzinfo=datetime.UTC), datetime.datetime(2024, 3, 4, 0, 0, tzinfo=datetime.UTC)]
AT = np.array([int(time.timestamp() * 1000) for time in TIMES])


@pytest.fixture
def encoder() -> ContextEncoder:
    return ContextEncoder.fit(["hour", "net", "weekday"], {"net": pa.array([5, None, 4])}.__getitem__)


def test_the_log_and_requests_are_encoded_alike(encoder: ContextEncoder) -> None:
    wanted = [[TIMES[0].hour + 1, 2, TIMES[0].weekday() + 1], [1, 0, 1]]
    assert encoder.sizes == {"hour": 25, "net": 3, "weekday": 8}
    found = encoder.encode(pa.table({"net": [5, 6]}), AT)
    assert found.dtype == np.int16
    assert found.tolist() == wanted
    assert encoder.encode_requests([{"net": 5, "other": 1}, {}], AT).tolist() == wanted


@pytest.mark.parametrize(
    ("logged", "requested"),
    [
        (pa.array([True, False]), [True, False]),
        (pa.array([True, False]), ["true", "False"]),
        (pa.array(["True", "False"]), [True, False]),
        (pa.array([1, 0]), [1.0, 0]),
        (pa.array([1.0, 1e6]), [1, 1000000]),
        (pa.array([0.1, 1e-5], pa.float32()), [0.1, 0.00001]),
        (pa.array([Decimal("1.50"), Decimal("2.00")]), [1.5, 2]),
        (pa.array(["02134", "2134"]), ["02134", 2134]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_a_value_of_a_request_is_that_of_the_log(logged: pa.Array, requested: list[object]) -> None:
    encoder = ContextEncoder.fit(["x"], lambda name: logged.unique())
    values = encoder.encode(pa.table({"x": logged}), AT).tolist()
    assert sorted(values) == [[1], [2]]
    assert encoder.encode_requests([{"x": value} for value in requested], AT).tolist() == values
    assert encoder.encode_requests([{"x": None}, {"x": "unseen"}], AT).tolist() == [[0], [0]]


def test_large_vocabularies_get_wider_integers() -> None:
    encoder = ContextEncoder.fit(["n"], lambda name: pa.array(range(40_000)))
    values = encoder.encode(pa.table({"n": ["39999"]}), AT[:1])
    assert values.dtype == np.int32
    assert encoder.vocabularies["n"][int(values[0, 0]) - 1] == "39999"


def test_an_unknown_field_is_refused_with_the_nearest_one() -> None:
    refuse_unknown_context(["hour", "net"], ["net"])
    with pytest.raises(DataError, match=r"ranker.context_fields: the log has no column 'weekdy'; did you mean 'weekday'\?"):
        refuse_unknown_context(["weekdy"], ["net"])
