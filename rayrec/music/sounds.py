"""The sound of tracks as features: those that `extract` computes of a video's sound, and patches of a log-mel spectrogram.

It does without torch, so that a process that only decodes starts without it.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.config import YAMNET_RATE, AudioFeatures, Features
from rayrec.features.media.decode import DecodeError, decode
from rayrec.features.rows import DECODED, FAILED, SPECTROGRAM, decode_rows
from rayrec.features.yamnet.spectrogram import BANDS, patches, spectrogram

PATCHES = "patches"
SOUNDS = DECODED.append(pa.field(PATCHES, pa.large_binary()))
NO_SOUND = "it has no sound, or one shorter than 25 ms"


@dataclass(frozen=True)
class SoundSettings:
    """What is computed of a sound: `audio` as in the section `features`, and at most so many patches; neither if None and 0."""

    audio: AudioFeatures | None
    patches: int = 0

    @property
    def features(self) -> Features:
        """The section `features` without all but sound."""
        return Features(image=None, motion=None, audio=self.audio)


def sound_rows(rows: pa.Table, settings: SoundSettings, failure: str | None = None) -> pa.Table:
    """The decoded sounds of the rows (`uri` and `rows.GIVEN`), in the columns SOUNDS; a `RowDecoder`."""
    decoded = decode_rows(rows, settings.features, failure)
    found = [_heard(row, uri, settings) for row, uri in zip(decoded.to_pylist(), rows["uri"].to_pylist(), strict=True)]
    return pa.Table.from_pylist(found, SOUNDS)


def _heard(row: dict[str, object], uri: str, settings: SoundSettings) -> dict[str, object]:
    """A decoded row with its patches; one without sound has failed."""
    row = row | {PATCHES: None}
    if row["status"] == FAILED:
        return row
    spectra: np.ndarray | None = None
    if settings.patches and row[SPECTROGRAM] is not None:
        spectra = np.frombuffer(row[SPECTROGRAM], np.float32).reshape(-1, BANDS)  # type: ignore[call-overload]
    elif settings.patches:
        try:
            waveform = decode(uri, Features(image=None, motion=None, audio=AudioFeatures(sample_rate=YAMNET_RATE))).waveform
        except DecodeError as error:
            return row | {"status": FAILED, "error": str(error)}
        spectra = None if waveform is None else spectrogram(waveform)
    if spectra is not None:
        row = row | {PATCHES: spread(patches(spectra), settings.patches).astype(np.float16).tobytes() or None}
    heard = row[PATCHES] if settings.patches else row["audio"] or row[SPECTROGRAM]
    return row if heard else row | {"status": FAILED, "error": row["error"] or NO_SOUND}


def spread(patches: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the patches, spread evenly over all."""
    if len(patches) <= count:
        return patches
    chosen = (np.arange(count) + 0.5) * len(patches) / count
    return patches[chosen.astype(int)]
