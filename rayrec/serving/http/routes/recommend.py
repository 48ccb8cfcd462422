"""A page of recommendations."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from rayrec.config import Formula
from rayrec.serving.assignment import label
from rayrec.serving.http import answers
from rayrec.serving.http.auth import CALLER
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.bodies import RecommendRequest
from rayrec.serving.http.schemas import RecommendAnswer
from rayrec.serving.metrics import Metrics
from rayrec.serving.pages import Page, Visit
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.rollout.arms import CANARY
from rayrec.serving.rollout.guardrails import FAILED, SLOW

log = logging.getLogger(__name__)


def create_router(backend: Backend) -> APIRouter:
    router, max_k = APIRouter(route_class=DirectRoute), backend.serving.max_k

    @router.post("/v1/recommend", summary="Recommend a page of videos to a user", response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest, http: Request) -> Response:
        """Returns the k videos that the user is most likely to click, the best first.

        The page holds no video that the user has seen within `recall.seen_days` or that the request excludes. Only when no others
        are left, the videos that the user has not seen for the longest time come again, with `again` as their `why`. The videos
        are logged as delivered. An unknown user gets popular and new videos.
        """
        if request.k > max_k:
            raise HTTPException(422, f"k: a page holds at most {max_k} videos (serving.max_k), not {request.k}")
        experiments = backend.experiments
        assigned = experiments.of(request.user_id, now_ms())
        trusted = _is_trusted(http, backend)
        if request.score is not None and not trusted:
            raise HTTPException(403, "score: only keys in serving.trusted_keys may bring a formula of their own; leave it out")

        async def make(arm: str, recommender: Recommender) -> Page:
            return await recommender.recommend(
                request.user_id,
                request.k,
                request.exclude,
                request.blocked_authors,
                request.context,
                label(arm, assigned),
                experiments.change(assigned),
                Visit(request.session_id, request.page_number),
                None if request.score is None else _formula(request.score, recommender),
            )

        arm, recommender, page = await _answered(backend, request.user_id, make)
        _count(backend.metrics, page, arm)
        return Response(answers.page(recommender, page, arm, assigned, request.debug, trusted), media_type="application/json")

    return router


class DirectRoute(APIRoute):
    """Reads a `RecommendRequest` in one step, in a tenth of the time that FastAPI's general way takes.

    A body that is not a valid one goes FastAPI's general way, which says what is wrong.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        general = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                asked = RecommendRequest.model_validate_json(await request.body())
            except ValidationError:
                return await general(request)
            return cast(Response, await self.endpoint(asked, request))

        return handle


async def _answered(
    backend: Backend, user_id: str, make: Callable[[str, Recommender], Awaitable[Page]]
) -> tuple[str, Recommender, Page]:
    """A user's page, the user's arm, and the recommender that made it: the stable one if the canary's failed.

    The page belongs to the user's arm all the same, since that is where the user was drawn. Raises what `make` raises.
    """
    arms = backend.arms()
    arm, recommender = arms.arm_of(user_id)
    started = time.perf_counter()

    def note(kind: str) -> None:
        arms.guardrails.note(kind, arm, user_id)
        backend.metrics.count("pages_failed_total" if kind == FAILED else "pages_slow_total", arm=arm)

    try:
        page = await make(arm, recommender)
    except BaseException as problem:  # also if the request has lasted too long, or its caller has gone
        refused = isinstance(problem, HTTPException)  # the request is wrong, or asks for a goal that this bundle lacks
        if not refused:
            note(FAILED)
        if arm != CANARY or not isinstance(problem, Exception):
            raise
        if not refused:
            log.exception("the canary failed on a request; the stable bundle answers it")
        recommender = arms.stable
        return arm, recommender, await make(arm, recommender)
    if time.perf_counter() - started > backend.serving.slow_s:
        note(SLOW)
    return arm, recommender, page


def _is_trusted(http: Request, backend: Backend) -> bool:
    """Whether the caller may bring a formula and see the values of goals. Without API keys, the caller is this machine."""
    caller = http.scope.get(CALLER)
    return caller is None or caller in backend.serving.trusted_keys


def _formula(text: str, recommender: Recommender) -> Formula:
    """The formula of a request. Raises a 422 for what is no formula of the ranker's goals."""
    try:
        return Formula.parse(text, recommender.bundle.info.goals)
    except ValueError as error:
        raise HTTPException(422, f"score: {error}") from error


def _count(metrics: Metrics, page: Page, arm: str) -> None:
    metrics.count("pages_total", arm=arm)
    metrics.count("events_total", len(page.items), kind="impression")
    if page.trace.steps[0].count == 0:  # the clicks that hydrate found
        metrics.count("cold_users_total", arm=arm)
    for source, count in Counter(page.why.tolist()).items():
        metrics.count("videos_total", count, source=source)
    for step in page.trace.steps:
        metrics.observe("step_seconds", step.milliseconds / 1000, step=step.name)
        metrics.observe("step_candidates", step.count, step=step.name)
