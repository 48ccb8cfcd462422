"""What operators call: the probe of readiness."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rayrec.serving.recommender import OverloadedError, Recommender
from tests.serving.http.helpers import Listen, api_of
from tests.serving.small_world import rank_by_number


def test_the_probe_costs_the_ranker_one_call_a_second(
    recommender: Recommender, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayrec.serving.http.routes.operation.READY_S", 60)
    calls, problems = [0], list[Exception]()

    async def rank(*call: Any) -> np.ndarray:
        calls[0] += 1
        if problems:
            raise problems[0]
        return await rank_by_number(*call)

    recommender.rank = rank
    client = listen(api_of(recommender))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.get("/readyz").status_code, range(50)))
    assert (calls, set(answers)) == ([1], {200})
    problems.append(OverloadedError("busy"))
    monkeypatch.setattr("rayrec.serving.http.routes.operation.READY_S", 0)
    assert client.get("/readyz").status_code == 503
    monkeypatch.setattr("rayrec.serving.http.routes.operation.READY_S", 60)
    assert [client.get("/readyz").status_code for _ in range(20)] == [503] * 20
    assert calls == [2]
