"""The pages for people: the feed, the dashboard and the description of the API."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

FOLDER = Path(__file__).parents[2] / "page"
# Scripts, styles and calls go to this service only. Media may also come from wherever the catalog says that they are.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob: https: http:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def feed() -> Response:
    return _page("index.html")


@router.get("/dashboard")
async def dashboard() -> Response:
    return _page("dashboard.html")


@router.get("/docs")
async def docs() -> Response:
    return _page("docs.html")


def _page(name: str) -> Response:
    return FileResponse(FOLDER / name, headers=HEADERS)
