"""What the tests of the HTTP rooms share."""

from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI

from rayrec.config import Serving
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms

Listen = Callable[[FastAPI], httpx.Client]
FIRST = {"Authorization": "Bearer first"}


def api_of(recommender: Recommender, keys: Keys | None = None, **settings: Any) -> FastAPI:
    return create_api(lambda: Arms(recommender), Serving(**settings), keys or Keys(), LocalMetrics(), list)


def error(response: httpx.Response, status: int) -> str:
    assert (response.status_code, list(response.json())) == (status, ["error"])
    return response.json()["error"]


def in_process(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost")
