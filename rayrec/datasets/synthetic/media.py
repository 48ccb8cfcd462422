"""Draws, synthesises and encodes the clips of the synthetic world: what a topic looks and sounds like.

A topic looks like a moving shape with a certain hue, and sounds like a pitch with a certain rhythm and share of noise. None of
these identifies the topic alone: several topics share shapes, motions, rhythms and shares of noise, and hues and pitches vary so
much that those of different topics overlap. Everything random about a clip comes from its own seed, so that a clip is the same in
any order and on any number of threads.
"""

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import av
import numpy as np
import pyarrow.fs as pafs

from rayrec.workspace.files import write_whole

SAMPLE_RATE = 22_050  # Hz
HUES, PITCHES = 8, 24
RHYTHMS = (1.5, 2.5, 4.0, 6.5)  # beats a second
NOISES = (0.03, 0.2, 0.6)  # share of noise in the sound
SPRITES = 2  # copies of the topic's shape in a picture; a smaller grey shape is added as a distraction
MAX_THREADS = 8

Field = np.ndarray  # [frames, side, side] float32


@dataclass(frozen=True)
class Clip:
    """What a video file shows and plays. `picture` and `sound` are topics, and differ in a clip that misleads."""

    name: str
    picture: int
    sound: int
    frames: int
    fps: int
    side: int
    seed: tuple[int, ...]


def write_clips(clips: list[Clip], fs: pafs.FileSystem, folder: str) -> None:
    """Write `<folder>/<name>.mp4` for every clip that is missing. A file appears only when it is whole.

    Threads suffice, because NumPy's loops and the encoders release the interpreter lock.
    """
    fs.create_dir(folder, recursive=True)
    present = {item.base_name for item in fs.get_file_info(pafs.FileSelector(folder))}
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda clip: _write(clip, fs, folder), [clip for clip in clips if f"{clip.name}.mp4" not in present]))


def _write(clip: Clip, fs: pafs.FileSystem, folder: str) -> None:
    write_whole(fs, f"{folder}/{clip.name}.mp4", encode(clip), temporary=".part")


def encode(clip: Clip) -> bytes:
    """The clip as an mp4 file with H.264 and AAC."""
    pictures, sound = draw(clip), synthesise(clip)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=clip.fps, options={"preset": "veryfast", "crf": "27"})
        video.width = video.height = clip.side
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 48_000
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
        samples.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
    return file.getvalue()


# --- pictures --------------------------------------------------------------------------------------------------------------------


def draw(clip: Clip) -> np.ndarray:
    """The clip's pictures: [frames, side, side, 3] uint8 RGB."""
    rng = np.random.default_rng((*clip.seed, 0))
    shape, motion = SHAPES[clip.picture % len(SHAPES)], MOTIONS[(clip.picture // 2) % len(MOTIONS)]
    hue = (clip.picture // 3 % HUES + rng.normal(0, 0.35)) / HUES
    line = np.linspace(-1, 1, clip.side, dtype=np.float32)
    time = np.arange(clip.frames, dtype=np.float32) / clip.fps
    colour = _rgb(hue, saturation=rng.uniform(0.7, 1.0), value=rng.uniform(0.7, 1.0))
    sprites = [_sprite(shape, motion, rng.uniform(0.32, 0.5), line, time, rng) for _ in range(SPRITES)]
    other_shape, other_motion = SHAPES[rng.integers(len(SHAPES))], MOTIONS[rng.integers(len(MOTIONS))]
    distraction = _sprite(other_shape, other_motion, rng.uniform(0.1, 0.18), line, time, rng)
    pictures = _background(clip, line, rng)
    for cover, paint in ((distraction, np.full(3, rng.uniform(0.2, 0.9))), (np.maximum.reduce(sprites), colour)):
        pictures += cover[..., None] * (paint.astype(np.float32) - pictures)
    return (np.clip(pictures, 0, 1) * 255).astype(np.uint8)


def _background(clip: Clip, line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pale or dark gradient, almost grey, with some grain; it is the same in every frame."""
    slope = rng.uniform(-0.15, 0.15, (2, 1)) + rng.normal(0, 0.02, (2, 3))
    grain = rng.normal(0, 0.03, (clip.side, clip.side, 1))
    still = rng.uniform(0.15, 0.75) + rng.normal(0, 0.02, 3) + grain
    still = still + line[None, :, None] * slope[0] + line[:, None, None] * slope[1]
    return np.repeat(still[None].astype(np.float32), clip.frames, axis=0)


def _sprite(shape: "Shape", motion: "Motion", size: float, line: np.ndarray, time: np.ndarray, rng: np.random.Generator) -> Field:
    """The share of each pixel that one moving shape covers, 0 to 1. Positions and sizes are in half picture widths."""
    x, y, grow, angle = motion(time, rng.uniform(0.3, 0.5), rng.uniform(0, 2 * np.pi))
    home = rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    radius = (size * grow)[:, None, None]
    across = (line[None, None, :] - (home[0] + x)[:, None, None]) / radius
    down = (line[None, :, None] - (home[1] + y)[:, None, None]) / radius
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    outside = shape(across * cos + down * sin, down * cos - across * sin)
    pixel = 2 / (len(line) * size)  # in units of the shape
    return np.clip(0.5 - outside / pixel, 0, 1)


# The distance of a point from the edge of a shape of radius 1, negative inside, by the point's coordinates.
Shape = Callable[[Field, Field], Field]
SHAPES: tuple[Shape, ...] = (
    lambda x, y: np.sqrt(x * x + y * y) - 1,  # disc
    lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.8,  # square
    lambda x, y: np.maximum(np.abs(x) * 0.87 + y * 0.5, -y) - 0.6,  # triangle
    lambda x, y: np.abs(np.sqrt(x * x + y * y) - 0.8) - 0.2,  # ring
    lambda x, y: np.minimum(np.maximum(np.abs(x) - 0.3, np.abs(y) - 1), np.maximum(np.abs(x) - 1, np.abs(y) - 0.3)),  # cross
    lambda x, y: np.sqrt(np.abs(x)) + np.sqrt(np.abs(y)) - 1,  # star
)

# The offset to the right, offset down, scale and rotation (radians) at each time (s), given a reach and a phase.
Motion = Callable[[np.ndarray, float, float], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
MOTIONS: tuple[Motion, ...] = (
    lambda t, reach, phase: (reach * np.sin(3 * t + phase), 0 * t, 0 * t + 1, 0 * t),  # to and fro
    lambda t, reach, phase: (0 * t, reach * np.abs(np.sin(4 * t + phase)) * -1 + reach / 2, 0 * t + 1, 0 * t),  # bouncing
    lambda t, reach, phase: (reach * np.cos(2.5 * t + phase), reach * np.sin(2.5 * t + phase), 0 * t + 1, 0 * t),  # circling
    lambda t, reach, phase: (0 * t, 0 * t, 1 + reach * np.sin(6 * t + phase), 0 * t),  # pulsing
    lambda t, reach, phase: (0 * t, reach / 2 * np.sin(2 * t), 0 * t + 1, 4 * t + phase),  # spinning, and sinking and rising
)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    ramp = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return value * (1 - saturation + saturation * ramp)


# --- sound -----------------------------------------------------------------------------------------------------------------------


def synthesise(clip: Clip) -> np.ndarray:
    """The clip's sound: mono float32 samples in -1..1, with the duration of its pictures."""
    rng = np.random.default_rng((*clip.seed, 1))
    time = np.arange(round(clip.frames / clip.fps * SAMPLE_RATE)) / SAMPLE_RATE
    semitone = clip.sound * 7 % PITCHES + rng.normal(
        0, 0.8
    )  # neighbouring topics are a fifth apart, so that their pitches are not neighbours
    beats = RHYTHMS[clip.sound % len(RHYTHMS)] * rng.uniform(0.8, 1.25)
    noise = NOISES[clip.sound // 4 % len(NOISES)] * rng.uniform(0.5, 1.6)
    pitch = 130.8 * 2 ** (semitone / 12)  # Hz, from C3 up
    overtones = np.arange(1, 5)
    loudness = overtones ** -rng.uniform(1.0, 1.8)
    tone = (loudness[:, None] * np.sin(2 * np.pi * pitch * overtones[:, None] * time)).sum(axis=0) / loudness.sum()
    stroke = 0.15 + 0.85 * np.exp(-5 * ((time * beats + rng.uniform()) % 1))
    hiss = rng.uniform(0, 0.08) * rng.standard_normal(len(time))
    sound = stroke * ((1 - noise) * tone + noise * rng.uniform(-1, 1, len(time))) + hiss
    return (rng.uniform(0.4, 0.9) * np.clip(sound, -1, 1)).astype(np.float32)
