"""The API over a small published workspace, without Ray."""

import httpx
import pytest
from fastapi import FastAPI

from rayrec.config import Serving
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms
from tests.serving.http.helpers import SWAPS, Listen


@pytest.fixture
def metrics() -> LocalMetrics:
    return LocalMetrics()


@pytest.fixture
def api(recommender: Recommender, metrics: LocalMetrics) -> FastAPI:
    return create_api(lambda: Arms(recommender), Serving(), Keys(), metrics, lambda: SWAPS)


@pytest.fixture
def client(api: FastAPI, listen: Listen) -> httpx.Client:
    return listen(api)
