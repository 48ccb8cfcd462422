"""Turns whatever goes wrong with a request into `{"error": "a sentence"}` with the right status."""

import logging
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from rayrec.config.wording import wording
from rayrec.errors import did_you_mean
from rayrec.serving.http.bodies import BODIES, NewVideo
from rayrec.serving.http.schemas import ErrorAnswer
from rayrec.serving.recommender import OverloadedError
from rayrec.serving.state.store import StoreError

# How the description of the API describes the errors of every route.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The request can't be answered; the sentence says what to change."},
    503: {"model": ErrorAnswer, "description": "The service is busy or starting; Retry-After says when to try again."},
}

BUSY = "the service is busy or starting; try again in a second"

Model = TypeVar("Model", bound=BaseModel)

log = logging.getLogger(__name__)


def add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
        first = dict(problem.errors()[0])
        return _answer(400 if first["type"] == "json_invalid" else 422, describe(first, request.url.path))

    @api.exception_handler(HTTPException)
    async def refused(request: Request, problem: HTTPException) -> JSONResponse:
        path, headers = request.url.path, dict(problem.headers or {})
        if problem.status_code == 405:
            allowed = headers.get("Allow", "another method")
            return _answer(405, f"{path} does not accept {request.method}; it accepts {allowed}", headers)
        if problem.status_code == 404 and problem.detail == "Not Found":
            return _answer(404, f"there is no route {path!r}; /docs lists all routes")
        if problem.status_code == 400:  # FastAPI's answer to bytes that are not text, to deep nesting and to huge numbers
            return _answer(400, "the body can't be read as JSON")
        return _answer(problem.status_code, problem.detail, headers)

    @api.exception_handler(OverloadedError)
    @api.exception_handler(StoreError)
    async def busy(request: Request, problem: Exception) -> JSONResponse:
        log.warning("busy: %s: %s", type(problem).__name__, problem)
        return _answer(503, BUSY, {"Retry-After": "1"})


def checked(model: type[Model], values: Any, route: str) -> Model:
    """The values as a model. Raises `ValueError` with one sentence about the first of them that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(describe(dict(error.errors()[0]), route)) from error


def describe(problem: dict[str, Any], route: str) -> str:
    """Returns one sentence about an error that pydantic found in a request to `route`."""
    path = [str(part) for part in problem["loc"][problem["loc"][:1] in (("body",), ("path",), ("query",)) :]]
    if problem["type"] == "json_invalid":
        return f"the body is not valid JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    if path[0:1] == ["context"] and len(path) > 1:
        names, values = "names have 1 to 64 characters", "numbers, true, false, null or strings of at most 512 characters"
        return f"context.{path[1][:80]}: {names}, and values are {values}"
    if path[2:3] == ["fields"] and len(path) > 3:
        values = "numbers, true, false, null, strings of at most 512 characters, or lists of up to 50 of these"
        return f"{'.'.join(path[:3])}.{path[3][:80]}: names have 1 to 64 characters, and values are {values}"
    key = ".".join(path) or "the body"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {key!r}{did_you_mean(path[-1], _names_beside(BODIES.get(route, NewVideo), path))}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {wording(problem)} (got {ascii(problem['input'])[:80]})"


def refuse_unknown(request: Request, names: Sequence[str]) -> None:
    """Refuses a name in the query of a URL that is none of these. FastAPI ignores it."""
    for name in request.query_params:
        if name not in names:
            raise HTTPException(422, f"unknown name {name!r} in the query of the URL{did_you_mean(name, names)}")


def _names_beside(model: type[BaseModel], path: list[str]) -> list[str]:
    """The names that the fields of an object may have, by the path of one of them from the body on."""
    for part in path[:-1]:
        if part in model.model_fields:
            kind = model.model_fields[part].annotation
            inner = (each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, BaseModel))
            model = next(inner, model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _answer(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(ErrorAnswer(error=text).model_dump(), status, headers)
