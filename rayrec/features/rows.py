"""The two steps of `extract` on tables: catalog rows -> decoded rows (CPU) -> rows of `features`.

Both are plain functions of Arrow tables, so that Ray Data, a process pool or a test can run them. This module does not import
torch: a process that only decodes starts without it.
"""

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import Features
from rayrec.features import audio, decode

if TYPE_CHECKING:
    from rayrec.features.networks import FeatureNetwork

FACTS = ("duration_s", "frames", "fps", "width", "height", "sample_rate", "cover_jpeg")
PIXELS = ("images", "cover_pixels", "clip")  # raw uint8; their shapes follow from the config
FAILED = "failed"  # the status, between the steps, of a file that yielded nothing

_FEATURES = tables.spec_of("features").schema
DECODED = pa.schema(
    [pa.field(name, _FEATURES.field(name).type) for name in ("video_id", "status", "error", "audio", *FACTS)]
    + [pa.field(name, pa.large_binary()) for name in PIXELS]
)
# What `extract` writes: `features`, still with the rows of status FAILED among them.
EXTRACTED = pa.schema([pa.field(field.name, field.type) for field in _FEATURES])

log = logging.getLogger(__name__)


def decode_rows(rows: pa.Table, settings: Features) -> pa.Table:
    """Decode the file of each row (`video_id`, `uri`). One that can't be read becomes a row of status FAILED with the reason."""
    decoded = [_decoded_row(uri, settings) for uri in rows["uri"].to_pylist()]
    columns = {name: pa.array([row.get(name) for row in decoded], DECODED.field(name).type) for name in DECODED.names[1:]}
    return pa.table({"video_id": rows["video_id"]} | columns, schema=DECODED)


def _decoded_row(uri: str, settings: Features) -> dict[str, object]:
    try:
        media = decode.decode(uri, settings)
        sound = audio.audio_features(media.waveform, settings.audio) if settings.audio and media.waveform is not None else None
    except decode.DecodeError as error:
        return {"status": FAILED, "error": str(error)}
    except Exception as error:  # whatever one strange file does, the others go on
        log.exception("%s can't be decoded", uri)
        return {"status": FAILED, "error": f"unexpected {type(error).__name__}: {error}"}
    return {
        "status": "partial" if media.faults else "ok",
        "error": "; ".join(media.faults) or None,
        "audio": sound,
        **{name: getattr(media, name) for name in FACTS},
        "images": _packed(media.images),
        "cover_pixels": _packed(media.cover),
        "clip": _packed(media.clip),
    }


def network_rows(
    decoded: pa.Table, settings: Features, image_network: "FeatureNetwork | None", motion_network: "FeatureNetwork | None"
) -> pa.Table:
    """Turn the pixels of decoded rows into vectors. A modality that is left out has no network."""
    from rayrec.features import image, motion  # with torch, only where networks run

    columns: dict[str, object] = {}
    if image_network is not None and settings.image is not None:
        side, count = settings.image.size, settings.image.frames
        frames, covers = _pixels(decoded["images"], (count, side, side, 3)), _pixels(decoded["cover_pixels"], (side, side, 3))
        columns["image"], columns["cover"] = image.image_features(image_network, frames, covers)
    if motion_network is not None and settings.motion is not None:
        side, count = settings.motion.size, settings.motion.frames
        columns["motion"] = motion.motion_features(motion_network, _pixels(decoded["clip"], (count, side, side, 3)))
    arrays = {name: pa.array(values, _FEATURES.field(name).type) for name, values in columns.items()}
    arrays |= {name: decoded[name] for name in DECODED.names if name not in PIXELS}
    absent = {field.name: pa.nulls(decoded.num_rows, field.type) for field in EXTRACTED if field.name not in arrays}
    return pa.table(arrays | absent, schema=EXTRACTED)


def _packed(pixels: np.ndarray | None) -> bytes | None:
    return None if pixels is None else pixels.tobytes()


def _pixels(column: pa.ChunkedArray, shape: tuple[int, ...]) -> list[np.ndarray | None]:
    return [np.frombuffer(value.as_buffer(), np.uint8).reshape(shape) if value.is_valid else None for value in column]
