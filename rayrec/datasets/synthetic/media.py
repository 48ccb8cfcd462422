"""Encodes clips and writes their files.

Everything random about a clip comes from its own seed, so that it is the same in any order and on any number of threads.
"""

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import av
import numpy as np
import pyarrow.fs as pafs
from av.video.reformatter import VideoReformatter

from rayrec.datasets.synthetic.sounds import SAMPLE_RATE
from rayrec.workspace.files import write_whole

# The slower presets of x264 follow macroblocks through time (`mbtree`), and their bytes depend on what has been in the process's
# memory: a clip that was made twice differed. This preset does without, and its files are quick to decode.
VIDEO_OPTIONS = {"preset": "ultrafast", "crf": "27"}
MAX_THREADS = 8


class Clip(Protocol):
    """What a video file shows and plays, and its name without the ending."""

    @property
    def name(self) -> str: ...

    @property
    def fps(self) -> int: ...

    @property
    def side(self) -> int: ...

    def pictures(self) -> Iterable[np.ndarray]:
        """Each uint8 [side, side, 3] in RGB, at least one."""

    def sound(self) -> np.ndarray:
        """float32 [samples] in -1..1, at `SAMPLE_RATE`, with the duration of the pictures."""


def write_clips(clips: Sequence[Clip], fs: pafs.FileSystem, folder: str) -> None:
    """Write `<folder>/<name>.mp4` for every clip that is missing. A file appears only when it is whole.

    Threads suffice, because NumPy's loops, Pillow and the encoders release the interpreter lock.
    """
    fs.create_dir(folder, recursive=True)
    present = {item.base_name for item in fs.get_file_info(pafs.FileSelector(folder))}
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda clip: _write(clip, fs, folder), [clip for clip in clips if f"{clip.name}.mp4" not in present]))


def _write(clip: Clip, fs: pafs.FileSystem, folder: str) -> None:
    write_whole(fs, f"{folder}/{clip.name}.mp4", encode(clip), temporary=".part")


def encode(clip: Clip) -> bytes:
    """The clip as an mp4 file with H.264 and AAC."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=clip.fps, options=VIDEO_OPTIONS)
        video.width = video.height = clip.side
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 48_000
        # By itself the encoder would convert each picture with several threads, which takes twice the CPU time.
        reformatter = VideoReformatter()
        for picture in clip.pictures():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(video.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(clip.sound()[None, :], format="fltp", layout="mono")
        samples.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
    return file.getvalue()
