"""The cover that the publisher of a video chose: a picture file, or an address from which it is fetched."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from rayrec.config import Features
from rayrec.errors import RayrecError
from rayrec.features.media.decode import Media
from rayrec.features.media.files import file_versions, locate
from rayrec.features.media.frames import MAX_ASPECT, jpeg, kept_size
from rayrec.workspace.files import is_special

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")  # of GIFs and other films the first picture
MAX_BYTES = 32 << 20
MAX_PIXELS = 100_000_000
WAIT_S = 20.0  # for an answer of a host, and for each piece of it
WEB = ("http://", "https://")


class CoverError(RayrecError):
    """A cover can't be used; the message says why."""


def cover_versions(uris: Iterable[str]) -> dict[str, str]:
    """What tells one version of each cover from another: of a file as `file_versions`, of an address on the web the address alone.

    A file that is missing has no entry. Raises `MediaError` for a store that does not answer.
    """
    found = set(uris)
    web = {uri: hashlib.sha256(uri.encode()).hexdigest()[:12] for uri in found if uri.startswith(WEB)}
    return file_versions(found - web.keys()) | web


def with_cover(media: Media, uri: str, settings: Features) -> Media:
    """The media with this picture as its cover. If it can't be used, the cover stays what it is, and a fault says why."""
    try:
        picture = read_picture(uri)
    except CoverError as error:
        return replace(media, faults=(*media.faults, f"cover: {error}"))
    kept = picture.resize(kept_size(picture.size, settings.cover_side), Image.Resampling.BILINEAR)
    square = cropped(picture, settings.image.size, settings.image.resize) if settings.image else None
    return replace(media, cover=square, cover_jpeg=jpeg(np.array(kept)))


def read_picture(uri: str) -> Image.Image:
    """The picture, upright, in RGB. Raises `CoverError`."""
    try:
        return picture_of(_fetched(uri) if uri.startswith(WEB) else _read(uri))
    except CoverError:
        raise
    except FileNotFoundError:
        raise CoverError("there is no such file") from None
    except Exception as error:  # stores raise errors of every kind
        raise _unreadable(error) from error


def picture_of(data: bytes) -> Image.Image:
    """The picture in the bytes of a file, upright, in RGB. Raises `CoverError`."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise CoverError(f"it has {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read")
        return ImageOps.exif_transpose(picture).convert("RGB")
    except CoverError:
        raise
    except Image.UnidentifiedImageError:
        raise CoverError(f"it is not a picture ({', '.join(FORMATS)})") from None
    except Exception as error:  # readers of damaged pictures raise errors of every kind
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> CoverError:
    return CoverError(f"it can't be read ({str(error) or type(error).__name__})")


def _read(uri: str) -> bytes:
    filesystem, path = locate(uri)
    if is_special(filesystem, path):
        raise CoverError("it is no regular file but a pipe, a socket or a device")
    with filesystem.open_input_file(path) as file:
        if file.size() > MAX_BYTES:
            raise CoverError(f"it has {file.size():,} bytes; at most {MAX_BYTES:,} are read")
        return file.read()


def _fetched(uri: str) -> bytes:
    import httpx  # takes 0.2 s, which covers in files need not wait

    data = bytearray()
    transport = httpx.HTTPTransport(retries=2)
    with httpx.Client(transport=transport, timeout=WAIT_S, follow_redirects=True) as client, client.stream("GET", uri) as answer:
        if not answer.is_success:
            raise CoverError(f"the host answered {answer.status_code}")
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > MAX_BYTES:
                raise CoverError(f"it has more than {MAX_BYTES:,} bytes")
    return bytes(data)


def cropped(picture: Image.Image, size: int | None, resize: int | None) -> np.ndarray:
    """uint8 [size, size, 3]: the short side is resized, then the centre is cropped, as frames are."""
    assert size is not None, "`rows.resolved` takes the sizes from the networks"
    short = resize or size
    width, height = (min(round(side * short / min(picture.size)), MAX_ASPECT * short) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size)))
