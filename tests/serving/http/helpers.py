"""What the tests of several files of the HTTP API share."""

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
from rayrec.serving.rollout.history import Swap

Listen = Callable[[FastAPI], httpx.Client]
BUSY = "the service is busy or starting; try again in a second"
SWAPS = [Swap(at=1000, version="a", canary=None, share=0.0, outcome="done"), Swap(2000, "a", "b", 0.1, "broken")]
FIRST = {"Authorization": "Bearer first"}


def api_of(recommender: Recommender, keys: Keys | None = None, **settings: Any) -> FastAPI:
    return create_api(lambda: Arms(recommender), Serving(**settings), keys or Keys(), LocalMetrics(), list)


def in_process(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost")


def click(number: int, **fields: object) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": "new", "video_id": f"v{number}", "kind": "click"} | fields


def error(response: Any, status: int) -> str:
    """The sentence of an error, which must have this status and nothing else in it."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    sentence = response.json()["error"]
    assert "Traceback" not in sentence
    return sentence
