"""What replicas change in Serve's own parts. Without a cluster."""

import asyncio

import httpx
import pytest
from ray.serve._private import http_util

from rayrec.serving.cluster import replicas
from rayrec.serving.http.request_log import RequestLogMiddleware
from rayrec.serving.metrics import LocalMetrics
from tests.serving.http.test_limits import ok


@pytest.mark.parametrize(("given", "kept"), [("trace-7", True), (None, False), ('x" y', False), ("x" * 129, False), ("", False)])
def test_an_answer_has_one_request_id_and_it_is_checked(monkeypatch: pytest.MonkeyPatch, given: str | None, kept: bool) -> None:
    monkeypatch.setattr(http_util.RequestIdMiddleware, "__call__", http_util.RequestIdMiddleware.__call__)  # undone afterwards
    replicas.check_request_ids()
    served = http_util._apply_middlewares(RequestLogMiddleware(ok, LocalMetrics()), [])

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://localhost") as client:
            return await client.get("/", headers={"x-request-id": given} if given is not None else {})

    ids = asyncio.run(ask()).headers.get_list("x-request-id")
    assert len(ids) == 1
    assert ids[0] == given if kept else len(ids[0]) == 32
