"""A page of recommendations."""

from collections import Counter

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rayrec.config import Formula
from rayrec.serving.assignment import label
from rayrec.serving.http import answers
from rayrec.serving.http.auth import CALLER
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.bodies import RecommendRequest
from rayrec.serving.http.schemas import RecommendAnswer
from rayrec.serving.metrics import Metrics
from rayrec.serving.recommender import Page, Recommender, now_ms


def create_router(backend: Backend) -> APIRouter:
    router, max_k = APIRouter(), backend.serving.max_k

    @router.post("/v1/recommend", summary="Recommend a page of videos to a user", response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest, http: Request) -> Response:
        """Returns the k videos that the user is most likely to click, the best first.

        The page holds no video that the user has seen or that the request excludes. Its videos are logged as shown. An unknown user
        gets popular and new videos.
        """
        if request.k > max_k:
            raise HTTPException(422, f"k: a page holds at most {max_k} videos (serving.max_k), not {request.k}")
        arm, recommender = backend.arms().arm_of(request.user_id)
        formula = None if request.score is None else _formula(request.score, recommender, http, backend)
        experiments = backend.experiments
        assigned = experiments.of(request.user_id, now_ms())
        page = await recommender.recommend(
            request.user_id,
            request.k,
            request.exclude,
            request.blocked_authors,
            request.context,
            label(arm, assigned),
            experiments.change(assigned),
            formula,
        )
        _count(backend.metrics, page, arm)
        return Response(answers.page(recommender, page, arm, assigned, request.debug), media_type="application/json")

    return router


def _formula(text: str, recommender: Recommender, http: Request, backend: Backend) -> Formula:
    """The formula of a request. Without API keys, whoever may ask is this machine, which is trusted.

    Raises a 403 for a key that is not trusted, and a 422 for what is no formula of the ranker's goals.
    """
    caller = http.scope.get(CALLER)
    if caller is not None and caller not in backend.serving.trusted_keys:
        raise HTTPException(403, "score: only keys in serving.trusted_keys may bring a formula of their own; leave it out")
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
