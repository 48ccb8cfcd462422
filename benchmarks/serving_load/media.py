"""Clips to upload."""

import io
import os
import struct

import av
import numpy as np


def film(seconds: float, width: int, height: int, fps: int = 25, rate: int = 44_100) -> bytes:
    """An mp4 (H.264, AAC) of a moving pattern with some grain, and a chord."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    with av.open(file, "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for number in range(round(seconds * fps)):
            waves = np.sin((across + 6 * number) / 60) + np.sin((down - 4 * number) / 45)
            grey = 128 + 45 * waves + rng.normal(0, 4, (height, width))
            pixels = np.stack([grey, np.roll(grey, 40, 0), 255 - grey], -1).clip(0, 255).astype(np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode(None))
        time = np.arange(round(seconds * rate)) / rate
        samples = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277, 330)).astype(np.float32) / 4
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return file.getvalue()


def another(mp4: bytes) -> bytes:
    """The same film as a file of its own: a box that players skip has random contents."""
    return mp4 + struct.pack(">I4s", 24, b"free") + os.urandom(16)
