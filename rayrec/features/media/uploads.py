"""Decodes what a caller has sent: a picture or a sound, in the bytes of its file. A `RowDecoder`, so that a child process does it.

Nothing is written to a disk.
"""

import logging

import numpy as np
import pyarrow as pa

from rayrec.config import PICTURE, Features
from rayrec.features import audio
from rayrec.features.media import decode
from rayrec.features.media.covers import CoverError, cropped, picture_of
from rayrec.tables import TEXT

UPLOADS = pa.schema({"kind": TEXT, "data": pa.large_binary()})
# `error` says why nothing could be read; else there is a square of a picture (uint8 [size, size, 3]), or the features of a sound.
DECODED_UPLOADS = pa.schema({"error": TEXT, "pixels": pa.large_binary(), "audio": pa.list_(pa.float32())})

log = logging.getLogger(__name__)


def decode_uploads(rows: pa.Table, settings: Features, failure: str | None = None) -> pa.Table:
    """Rows of UPLOADS -> rows of DECODED_UPLOADS. The sizes in `settings` are the resolved ones."""
    return pa.Table.from_pylist([_decoded(row, settings, failure) for row in rows.to_pylist()], schema=DECODED_UPLOADS)


def _decoded(row: dict[str, object], settings: Features, failure: str | None) -> dict[str, object]:
    data = row["data"]
    assert isinstance(data, bytes)
    if failure is not None:
        return {"error": failure}
    try:
        if row["kind"] == PICTURE:
            assert settings.image is not None
            return {"pixels": cropped(picture_of(data), settings.image.size, settings.image.resize).tobytes()}
        return {"audio": _sound(data, settings)}
    except (CoverError, decode.DecodeError) as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": decode.TOO_LARGE}
    except Exception as error:  # whatever happens with one strange file, the process goes on
        log.exception("an uploaded %s can't be decoded", row["kind"])
        return {"error": f"unexpected {type(error).__name__}"}


def _sound(data: bytes, settings: Features) -> np.ndarray:
    assert settings.audio is not None
    media = decode.decode(data, settings.model_copy(update={"image": None, "motion": None}))
    if media.waveform is None:
        raise decode.DecodeError("; ".join(media.faults) or "it has no sound")
    found = audio.audio_features(media.waveform, settings.audio)
    if found is None:
        raise decode.DecodeError(f"it is shorter than {settings.audio.window_s:g} s")
    return found
