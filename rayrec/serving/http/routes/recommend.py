"""A page of recommendations."""

from collections import Counter

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rayrec.serving.assignment import label
from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend
from rayrec.serving.http.bodies import RecommendRequest
from rayrec.serving.http.schemas import RecommendAnswer
from rayrec.serving.metrics import Metrics
from rayrec.serving.recommender import Page, Visit, now_ms


def create_router(backend: Backend) -> APIRouter:
    router, max_k = APIRouter(), backend.serving.max_k

    @router.post("/v1/recommend", summary="Recommend a page of videos to a user", response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest) -> Response:
        """Returns the k videos that the user is most likely to click, the best first.

        The page holds no video that the user has seen within `recall.seen_days` or that the request excludes. Only when no others
        are left, the videos that the user has not seen for the longest time come again, with `again` as their `why`. The videos
        are logged as delivered. An unknown user gets popular and new videos.
        """
        if request.k > max_k:
            raise HTTPException(422, f"k: a page holds at most {max_k} videos (serving.max_k), not {request.k}")
        arm, recommender = backend.arms().arm_of(request.user_id)
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
            Visit(request.session_id, request.page_number),
        )
        _count(backend.metrics, page, arm)
        return Response(answers.page(recommender, page, arm, assigned, request.debug), media_type="application/json")

    return router


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
