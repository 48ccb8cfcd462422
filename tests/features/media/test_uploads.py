"""What a caller sends is decoded from its bytes, and what can't be is a sentence."""

import io
import wave

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rayrec.config import PICTURE, SOUND, Features, ImageFeatures
from rayrec.features.audio import audio_features
from rayrec.features.media.uploads import UPLOADS, decode_uploads
from tests.features.clips import RATE, tone

SETTINGS = Features(image=ImageFeatures(size=32, resize=32), motion=None)


def wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(np.round(samples * 32767).astype(np.int16).tobytes())
    return file.getvalue()


def png(colour: tuple[int, int, int], width: int = 60) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 40), colour).save(file, "PNG")
    return file.getvalue()


def decoded(kind: str, data: bytes, failure: str | None = None) -> dict[str, object]:
    rows = pa.Table.from_pylist([{"kind": kind, "data": data}], schema=UPLOADS)
    return decode_uploads(rows, SETTINGS, failure).to_pylist()[0]


def test_a_picture_becomes_the_square_that_a_network_reads() -> None:
    found = decoded(PICTURE, png((10, 200, 30)))
    assert found["error"] is None
    pixels = np.frombuffer(found["pixels"], np.uint8).reshape(32, 32, 3)  # type: ignore[call-overload]
    assert (pixels == (10, 200, 30)).all()


def test_a_sound_has_the_features_that_its_samples_have() -> None:
    sound = tone(440, 1)
    found = decoded(SOUND, wav(sound))
    assert found["error"] is None
    assert SETTINGS.audio
    np.testing.assert_allclose(found["audio"], audio_features(sound, SETTINGS.audio), atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (PICTURE, b"<html>", "it is not a picture"),
        (PICTURE, png((0, 0, 0))[:50], "it can't be read"),
        (PICTURE, wav(tone(440, 1)), "it is not a picture"),
        (SOUND, b"<html>", "not a video or sound file"),
        (SOUND, b"", "the file is empty"),
        (SOUND, b"#EXTM3U\n/etc/passwd\n", "not a video or sound file"),
        (SOUND, wav(tone(440, 0.01)), "it is shorter than 0.05 s"),
    ],
)
def test_what_cannot_be_read_is_said(kind: str, data: bytes, reason: str) -> None:
    found = decoded(kind, data)
    assert str(found["error"]).startswith(reason)
    assert found["pixels"] is found["audio"] is None


def test_the_reason_why_a_process_has_ended_is_passed_on() -> None:
    assert decoded(SOUND, b"", "its decoder crashed")["error"] == "its decoder crashed"
