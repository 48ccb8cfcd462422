"""The two steps of `extract` on tables: catalog rows -> decoded rows (on the CPU) -> rows of `features`.

Both are plain functions of Arrow tables, so that Ray Data, a process pool or a test can run them. This module does not import
torch, so that a process that only decodes starts without it.
"""

import logging
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import AudioFeatures, Config, Features
from rayrec.features import audio
from rayrec.features.media import decode
from rayrec.features.media.covers import with_cover
from rayrec.features.yamnet.spectrogram import BANDS, patches, spectrogram

if TYPE_CHECKING:
    import torch

    from rayrec.features.networks import FeatureNetwork
    from rayrec.features.text import TextNetwork
    from rayrec.features.universal_sentences import UniversalSentenceEncoder
    from rayrec.features.yamnet.network import YAMNet

GIVEN = ("video_id", "title", "file_version")  # the columns that a row brings with it, beside its `uri` and `cover_uri`
FACTS = ("duration_s", "frames", "fps", "width", "height", "sample_rate", "cover_jpeg")
DECODER_MODALITIES = ("audio",)  # those that may need no network: the first step then computes them
# What the networks read: raw uint8, whose shapes follow from the config, and raw float32.
PIXELS, SPECTROGRAM = ("images", "cover_pixels", "clips"), "spectrogram"
FAILED = "failed"  # the status, between the steps, of a file from which nothing could be read

_FEATURES = tables.spec_of("features").schema
DECODED = pa.schema(
    [pa.field(name, tables.TEXT) for name in GIVEN]
    + [pa.field(name, _FEATURES.field(name).type) for name in ("status", "error", *DECODER_MODALITIES, *FACTS)]
    + [pa.field(name, pa.large_binary()) for name in (*PIXELS, SPECTROGRAM)]
)
# Rows of `features` as they come from the second step; some still have the status FAILED.
EXTRACTED = pa.schema([pa.field(field.name, field.type) for field in _FEATURES])

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Networks:
    """The networks of one process; a modality that is left out has none."""

    image: "FeatureNetwork | None" = None
    motion: "FeatureNetwork | None" = None
    audio: "YAMNet | None" = None
    text: "TextNetwork | UniversalSentenceEncoder | None" = None

    def to(self, device: "torch.device") -> "Networks":
        networks = {field.name: getattr(self, field.name) for field in fields(self)}
        return Networks(**{name: network.to(device) for name, network in networks.items() if network is not None})


def load_networks(features: Features, seed: int) -> Networks:
    """The networks, on the CPU. Raises `ConfigError` for settings that can't be used, those of sound without a network included."""
    # Imported here, because torchvision takes 6 s.
    from rayrec.features.image import image_network
    from rayrec.features.motion import motion_network
    from rayrec.features.text import text_network
    from rayrec.features.yamnet.network import yamnet

    hears = features.audio is not None and features.audio.model == "yamnet"
    if features.audio is not None and not hears:
        audio.check(features.audio)
    return Networks(
        image=image_network(features.image, seed) if features.image is not None else None,
        motion=motion_network(features.motion, seed) if features.motion is not None else None,
        audio=yamnet(features.audio) if features.audio is not None and hears else None,
        text=text_network(features.text) if features.text is not None else None,
    )


def resolved(features: Features, networks: Networks) -> Features:
    """The settings with the sizes that the networks chose where none were given, as `decode_rows` and `network_rows` need them."""
    changes = {
        name: getattr(features, name).model_copy(update={"size": network.size, "resize": network.resize})
        for name, network in (("image", networks.image), ("motion", networks.motion))
        if network is not None
    }
    return features.model_copy(update=changes)


def with_cover_side(config: Config) -> Features:
    """The section `features` with the side that covers need, for the network that reads them as they are kept."""
    features, network = config.features, config.topics.cover_network
    return features.model_copy(update={"cover_side": features.cover_side or (network.size if network else None)})


def decode_rows(rows: pa.Table, settings: Features, failure: str | None = None) -> pa.Table:
    """Decode the file and the cover of each row (`uri`, `cover_uri` and GIVEN); a row with neither has only its title.

    A file that can't be read becomes a row of status FAILED with the reason. With a `failure`, nothing is decoded, and that is the
    reason for all rows.
    """
    failed = {"status": FAILED, "error": failure}
    covers = rows["cover_uri"].to_pylist() if "cover_uri" in rows.column_names else [None] * rows.num_rows
    places = zip(rows["uri"].to_pylist(), covers, strict=True)
    decoded = [_decoded_row(uri, cover, settings) if failure is None else failed for uri, cover in places]
    columns = {field.name: pa.array([row.get(field.name) for row in decoded], field.type) for field in DECODED}
    return pa.table(columns | {name: rows[name] for name in GIVEN}, schema=DECODED)


def _decoded_row(uri: str | None, cover_uri: str | None, settings: Features) -> dict[str, object]:
    try:
        media = _decoded_media(uri, cover_uri, settings)
        sound = _sound(media.waveform, settings.audio) if settings.audio and media.waveform is not None else {}
    except decode.DecodeError as error:
        return {"status": FAILED, "error": str(error)}
    except MemoryError:
        return {"status": FAILED, "error": decode.TOO_LARGE}
    except Exception as error:  # whatever happens with one strange file, the others go on
        log.exception("%s can't be decoded", uri or cover_uri)
        return {"status": FAILED, "error": f"unexpected {type(error).__name__}: {error}"}
    return {
        "status": "partial" if media.faults else "ok",
        "error": "; ".join(media.faults) or None,
        **sound,
        **{name: getattr(media, name) for name in FACTS},
        "images": _packed(media.images),
        "cover_pixels": _packed(media.cover),
        "clips": _packed(media.clips),
    }


def _sound(waveform: np.ndarray, settings: AudioFeatures) -> dict[str, object]:
    """The features of a sound, or what the network reads of it; null for a sound that is too short."""
    if settings.model == "yamnet":
        return {SPECTROGRAM: _packed(spectrogram(waveform))}
    return {"audio": audio.audio_features(waveform, settings)}


def _decoded_media(uri: str | None, cover_uri: str | None, settings: Features) -> decode.Media:
    """A video with its publisher's cover, or either of them. Raises `DecodeError` if there is nothing of what there should be."""
    if cover_uri is None:
        return decode.Media() if uri is None else decode.decode(uri, settings)
    try:
        media = decode.Media() if uri is None else decode.decode(uri, settings)
    except decode.DecodeError as error:
        media = decode.Media(faults=(str(error),))
    media = with_cover(media, cover_uri, settings)
    if media.cover_jpeg is None and media.waveform is None and media.faults:
        raise decode.DecodeError("; ".join(media.faults))
    return media


def network_rows(decoded: pa.Table, settings: Features, networks: Networks) -> pa.Table:
    """Turn the pixels, spectrograms and titles of decoded rows into vectors. `settings` are the resolved ones."""
    columns: dict[str, object] = {}
    if networks.image is not None and settings.image is not None:
        from rayrec.features.image import cover_features, image_features

        side = networks.image.size
        frames, covers = _arrays(decoded["images"], (-1, side, side, 3)), _arrays(decoded["cover_pixels"], (side, side, 3))
        if (maps := networks.image.maps) is None:
            columns["image"], columns["cover"] = image_features(networks.image, frames, covers)
        else:
            columns["image"], _ = image_features(networks.image, frames, [])
            columns["cover"], found = cover_features(networks.image, covers)
            shape = maps.shape.to_json()  # type: ignore[union-attr, operator]
            columns |= {tables.MAPS: found, tables.MAPS_SHAPE: [None if each is None else shape for each in found]}
    if networks.motion is not None and settings.motion is not None:
        from rayrec.features.motion import motion_features

        side, count = networks.motion.size, settings.motion.frames
        columns["motion"] = motion_features(networks.motion, _arrays(decoded["clips"], (-1, count, side, side, 3)))
    if networks.audio is not None:
        from rayrec.features.yamnet.network import sound_features

        sounds = _arrays(decoded[SPECTROGRAM], (-1, BANDS), np.float32)
        columns["audio"] = sound_features(networks.audio, [None if sound is None else patches(sound) for sound in sounds])
    if networks.text is not None:
        from rayrec.features.text import text_features

        columns["text"] = text_features(networks.text, decoded["title"].to_pylist())
    arrays = {name: pa.array(values, _FEATURES.field(name).type) for name, values in columns.items()}
    arrays |= {name: decoded[name] for name in DECODED.names if name in EXTRACTED.names and name not in columns}
    absent = {field.name: pa.nulls(decoded.num_rows, field.type) for field in EXTRACTED if field.name not in arrays}
    return pa.table(arrays | absent, schema=EXTRACTED)


def _packed(array: np.ndarray | None) -> bytes | None:
    return None if array is None else array.tobytes()


def _arrays(column: pa.ChunkedArray, shape: tuple[int, ...], kind: type = np.uint8) -> list[np.ndarray | None]:
    return [np.frombuffer(value.as_buffer(), kind).reshape(shape) if value.is_valid else None for value in column]
