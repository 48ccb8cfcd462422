"""Requests that schemathesis generates from the OpenAPI document, valid or not: none gets a 5xx, and answers are as documented.

`benchmarks/faults.py` sends many more to a running service.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from rayrec.config import Config, Serving, Uploads
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.inbox import Described, Inbox
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms
from rayrec.workspace.versions import Workspace

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: the API is not fuzzed")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import CHECKS  # noqa: E402
from schemathesis.specs.openapi import checks as openapi  # noqa: E402

EXAMPLES = 15  # for each operation, once well-formed and once malformed
AS_DOCUMENTED = [
    CHECKS.get_one("not_a_server_error"),
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
]
HOST = {"Host": "localhost"}


@pytest.fixture
def api(musical: Recommender, music_world: Config, tmp_path: Path) -> FastAPI:
    """It has music, and takes videos, none of which can be read."""

    async def describe(facts: dict[str, Any]) -> Described:
        return Described("not a video or sound file")

    async def tell() -> None:
        raise AssertionError("nothing was added")

    async def place(version: str, video: object) -> np.ndarray | None:
        return musical.bundle.music and musical.bundle.music.place_of(1)

    def arms() -> Arms:
        return Arms(musical)

    serving = Serving(uploads=Uploads(folder=str(tmp_path / "uploads"), media_roots=[str(tmp_path)]))
    config = music_world.model_copy(update={"serving": serving})
    inbox = Inbox(config, Workspace(config.workspace), musical.store, arms, describe, tell)
    return create_api(arms, serving, Keys(), LocalMetrics(), list, inbox, place=place)


def test_no_request_breaks_the_service(api: FastAPI, subtests: pytest.Subtests) -> None:
    described = schemathesis.openapi.from_asgi("/openapi.json", api, headers=HOST)
    operations = [operation.ok() for operation in described.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:
        for mode in GenerationMode:
            with subtests.test(operation=operation.label, mode=mode.value), contextlib.suppress(Unsatisfiable):
                try_out(operation, mode)  # Unsatisfiable: there is nothing about it that could be malformed


def try_out(operation: Any, mode: GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def answered_as_documented(case: Any) -> None:
        case.validate_response(case.call(headers=HOST), checks=AS_DOCUMENTED)

    answered_as_documented()
