"""How the bodies of requests are read."""

import json
from collections.abc import Callable

import pytest

from rayrec.serving.http.bodies import RecommendRequest

READ = [
    '{"user_id": "ann", "k": 3, "exclude": ["v1"], "context": {"a": 1.0, "b": true, "c": null, "d": "é", "e": 7}}',
    '{"user_id": "ann", "user_id": "bob"}',
    '{"user_id": "ann", "context": {"a": 123456789012345678901234567890}}',
]
REFUSED = [
    '{"user_id": 1}',
    '{"user_id": "ann", "k": 10.0}',
    '{"user_id": "ann", "k": true}',
    '{"user_id": "ann", "k": "3"}',
    '{"user_id": "ann", "kk": 3}',
    '{"user_id": "\\ud800"}',
    '{"user_id": "ann", "context": {"a": NaN}}',
    '{"user_id": "ann", "context": {"a": 1e400}}',
    '{"user_id": "ann", "context": {"a": 1' + "0" * 5000 + "}}",
    '\ufeff{"user_id": "ann"}',
    '["ann"]',
    "",
]


@pytest.mark.parametrize(("body", "is_read"), [*((body, True) for body in READ), *((body, False) for body in REFUSED)])
def test_a_page_is_asked_for_alike_in_one_step_and_in_the_general_way(body: str, is_read: bool) -> None:
    def found(read: Callable[[], RecommendRequest]) -> RecommendRequest | None:
        try:
            return read()
        except ValueError:  # of JSON and of pydantic
            return None

    one_step = found(lambda: RecommendRequest.model_validate_json(body))
    assert one_step == found(lambda: RecommendRequest.model_validate(json.loads(body)))
    assert (one_step is not None) == is_read
