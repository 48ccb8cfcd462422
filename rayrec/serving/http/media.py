"""Media of the catalog. Those in S3 and other stores are passed on piece by piece, or the range of bytes that is asked for.

What is logged and answered about a store that fails contains no URI, because a URI may hold credentials.
"""

import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from rayrec.features.media.files import locate
from rayrec.serving.http.answers import WEB, media_location, media_type
from rayrec.workspace.stores import in_words, is_of_the_store, problem_of, split_uri

PIECE = 2**20  # bytes that are in memory at once for each file that is sent
RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Reader = Callable[..., Awaitable[Any]]  # calls a function that waits for a file system, with its arguments, in a thread

log = logging.getLogger(__name__)


class NoFileError(Exception):
    """There is no such file, or no way to its store."""


class StoreFailedError(Exception):
    """A store does not answer or refuses; the message says why."""


class Medium(NamedTuple):
    """An open file of a store."""

    file: pa.NativeFile
    size: int  # bytes
    tag: str  # changes with the file
    changed: str  # when, as HTTP writes it; "" if the store does not say


async def answer_with(uri: str | None, whose: str, headers: Mapping[str, str], read: Reader) -> Response:
    """The answer with a file of the catalog, or a redirect to one on the web. `headers` are the request's.

    `whose` names the file in sentences, such as "video 'v7'". Raises a 404 if there is no file that is a medium, and a 503 if its
    store fails.
    """
    location = media_location(uri)
    if isinstance(location, Path):
        if location.is_file():
            return FileResponse(location)
    elif location and location.startswith(WEB):
        return RedirectResponse(location)
    elif location:
        try:
            return await passed_on(location, headers, read)
        except NoFileError as error:
            log.warning("%s: %s", whose, error)
        except StoreFailedError as error:
            log.error("%s: %s", whose, error)
            sentence = f"the file of {whose} can't be read now; the service's log says why"
            raise HTTPException(503, sentence, {"Retry-After": "5"}) from error
    raise HTTPException(404, f"{whose} has no file that this service can send")


async def passed_on(uri: str, headers: Mapping[str, str], read: Reader) -> Response:
    """The answer with the file, or with the one range of bytes that the request's headers ask for (RFC 9110, section 14).

    Several ranges at once are answered with the whole file, as the RFC allows. Raises `NoFileError`, `StoreFailedError`, and a 416
    for a range that is not in the file.
    """
    medium = await read(_open, uri)
    asked = headers.get("range")
    if headers.get("if-range", medium.tag) not in (medium.tag, medium.changed):
        asked = None  # the caller has parts of another file
    found = byte_range(asked, medium.size)
    start, end = found or (0, medium.size)
    answer = {"accept-ranges": "bytes", "content-length": str(end - start), "etag": medium.tag}
    if medium.changed:
        answer["last-modified"] = medium.changed
    if found:
        answer["content-range"] = f"bytes {start}-{end - 1}/{medium.size}"
    return StreamingResponse(_pieces(medium.file, start, end, read), 206 if found else 200, answer, media_type(uri))


def byte_range(asked: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the byte behind the last one that a Range header asks for. None for the whole file.

    Raises a 416 for a range that is not in a file of this size.
    """
    found = RANGE.fullmatch(asked.replace(" ", "")) if asked else None
    if not found or found[0] == "bytes=-" or (found[1] and found[2] and int(found[1]) > int(found[2])):
        return None  # what is no range is ignored, as the RFC says
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        sentence = f"the file has {size:,} bytes, so there is nothing in the range {found[0]}"
        raise HTTPException(416, sentence, {"content-range": f"bytes */{size}"})
    return start, end


def _open(uri: str) -> Medium:
    try:
        filesystem, path = locate(uri)
        parts = split_uri(uri)
        if problem := problem_of(filesystem, parts.root + parts.options, path):
            raise StoreFailedError(problem)
        info = filesystem.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise NoFileError("its file is not in its store")
        file = filesystem.open_input_file(path)
        facts = f"{info.size} {info.mtime_ns}".encode()
        changed = format_datetime(info.mtime, usegmt=True) if info.mtime else ""
        return Medium(file, file.size(), f'"{hashlib.sha256(facts).hexdigest()[:32]}"', changed)
    except FileNotFoundError as error:
        raise NoFileError("its file is not in its store") from error
    except OSError as error:
        raise StoreFailedError(in_words(error) if is_of_the_store(error) else f"its store fails: {type(error).__name__}") from error
    except (ValueError, ImportError, pa.ArrowException) as error:
        raise NoFileError(f"its URI can't be opened: {type(error).__name__}") from error


async def _pieces(file: pa.NativeFile, start: int, end: int, read: Reader) -> AsyncIterator[bytes]:
    """The bytes from `start` to before `end`. Raises `OSError` if the file has become shorter, which ends the connection."""
    try:
        while start < end:
            piece = await read(file.read_at, min(PIECE, end - start), start)
            if not piece:
                raise OSError("a file in a store has become shorter while it was sent")
            yield piece
            start += len(piece)
    finally:
        file.close()
