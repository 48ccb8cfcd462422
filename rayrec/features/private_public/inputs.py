"""The inputs of the private/public network: evenly spread frames of a media file, and the log-mel spectrograms of equal slices.

Both are kept compact, as bytes in Arrow rows: the frames as uint8 RGB, the spectrograms as float16. The functions work on Arrow
tables, without torch.
"""

import logging

import numpy as np
import pyarrow as pa

from rayrec.config import AudioFeatures, Features, ImageFeatures, PrivatePublic
from rayrec.features import audio
from rayrec.features.media import decode
from rayrec.tables import TEXT

# `frames` and `sound` are null for a video that has none. `error` is set, and both are null, where nothing could be read.
INPUTS = pa.schema(
    [
        ("video_id", TEXT),
        ("role", TEXT),
        ("label", pa.int32()),
        ("error", TEXT),
        ("frames", pa.large_binary()),
        ("sound", pa.large_binary()),
    ]
)

WINDOW_S, STEP_S = 0.025, 0.010  # of the spectrogram

log = logging.getLogger(__name__)


def read_inputs(rows: pa.Table, settings: PrivatePublic, failure: str | None = None) -> pa.Table:
    """Decode rows of (video_id, uri, role, label) into rows of INPUTS. With a `failure`, nothing is decoded, and all rows fail."""
    found = [_decoded_inputs(uri, settings) if failure is None else {"error": failure} for uri in rows["uri"].to_pylist()]
    columns = {name: pa.array([row.get(name) for row in found], INPUTS.field(name).type) for name in ("error", "frames", "sound")}
    return pa.table({name: rows[name] for name in ("video_id", "role", "label")} | columns, schema=INPUTS)


def _decoded_inputs(uri: str, settings: PrivatePublic) -> dict[str, str | bytes | None]:
    wanted = Features(image=ImageFeatures(frames=settings.frames, size=settings.size), motion=None, audio=AudioFeatures())
    assert wanted.audio is not None
    try:
        media = decode.decode(uri, wanted)
        sound = None if media.waveform is None else sound_slices(media.waveform, wanted.audio.sample_rate, settings)
    except decode.DecodeError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": decode.TOO_LARGE}
    except Exception as error:  # whatever happens with one strange file, the others go on
        log.exception("%s can't be decoded", uri)
        return {"error": f"unexpected {type(error).__name__}: {error}"}
    if media.images is None and sound is None:
        return {"error": "it has neither a picture nor sound of any length"}
    return {
        "frames": None if media.images is None else media.images.tobytes(),
        "sound": None if sound is None else sound.tobytes(),
    }


def sound_slices(waveform: np.ndarray, sample_rate: int, settings: PrivatePublic) -> np.ndarray | None:
    """The spectrogram cut into equal slices, each stretched or averaged to `width` columns: float16 [slices, bands, width].

    One spectrogram is computed and then cut, so that a slice that is shorter than a window still has columns. None for a sound
    that is shorter than one window.
    """
    if len(waveform) < int(WINDOW_S * sample_rate):
        return None
    spectrogram = audio.log_mel(waveform, sample_rate, bands=settings.bands, window_s=WINDOW_S, step_s=STEP_S)
    columns = mean_columns(spectrogram, settings.frames * settings.width)
    return np.moveaxis(columns.reshape(settings.bands, settings.frames, settings.width), 1, 0).astype(np.float16)


def mean_columns(spectrogram: np.ndarray, count: int) -> np.ndarray:
    """[bands, n] -> [bands, count]: the mean of the columns that each of `count` equal parts overlaps."""
    n = spectrogram.shape[1]
    starts, ends = np.arange(count) * n // count, -(-np.arange(1, count + 1) * n // count)
    sums = np.concatenate([np.zeros((len(spectrogram), 1)), spectrogram.cumsum(axis=1, dtype=np.float64)], axis=1)
    return ((sums[:, ends] - sums[:, starts]) / (ends - starts)).astype(np.float32)


def shapes(settings: PrivatePublic) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the frames and of the sound of one video."""
    return (settings.frames, settings.size, settings.size, 3), (settings.frames, settings.bands, settings.width)
