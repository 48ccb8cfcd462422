"""Little media files whose truth is known, made with PyAV."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 22_050


def tone(hz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """float32 [samples] in -0.5..0.5."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def numbered(index: int, total: int) -> np.ndarray:
    """A frame [64, 96, 3] that tells its position: grey from 30 to 220, with a white square in the corner."""
    frame = np.full((64, 96, 3), 30 + round(190 * index / max(1, total - 1)), np.uint8)
    frame[:16, :16] = 255
    return frame


def write_clip(
    path: Path,
    frames: int = 24,
    fps: int = 12,
    sound: np.ndarray | None = None,
    paint: Callable[[int, int], np.ndarray] = numbered,
    channels: int = 1,
    index_first: bool = False,
) -> Path:
    """An mp4 of `paint(index, frames)` for every frame; with `sound` (mono, at RATE), that on every channel."""
    layout = "stereo" if channels == 2 else "mono"
    options = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        if frames:
            height, width, _ = paint(0, frames).shape
            picture = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "10"})
            picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
            picture.codec_context.time_base = Fraction(1, fps)
        if sound is not None:
            voice = container.add_stream("aac", rate=RATE, layout=layout)
        for index in range(frames):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(paint(index, frames), format="rgb24")))
        if frames:
            container.mux(picture.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.stack([sound] * channels), format="fltp", layout=layout)
            frame.sample_rate = RATE
            frame.pts = 0
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


def cut(source: Path, path: Path, share: float) -> Path:
    """The first part of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def turned(source: Path, path: Path) -> Path:
    """The same mp4, marked to be shown a quarter turn clockwise, as phones mark portrait videos."""
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 16  # of the first track: after the name, version and flags, times and volume
    width = struct.unpack_from(">i", data, matrix + 36)[0]
    struct.pack_into(">9i", data, matrix, 0, 1 << 16, 0, -(1 << 16), 0, 0, width, 0, 1 << 30)
    path.write_bytes(data)
    return path
