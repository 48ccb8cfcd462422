"""Reads one media file, once, and keeps only what features are made of.

From the picture: frames sampled evenly, a cover, and one clip of consecutive frames from the middle. From the sound: one mono
waveform. A file may lack picture or sound: that is normal. A part that is there but damaged leaves a sentence in `Media.faults`,
and whatever could be read of it is used. The compressed packets of the file are held in memory while it is decoded (short videos:
some megabytes).
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from rayrec.config import Features
from rayrec.workspace import open_filesystem

TOLERATED_LOSS = 0.05  # share of a stream that may be undecodable before the file counts as damaged
CONTRAST = 5.0  # standard deviation in grey levels (of 255) from which a frame is no longer nearly uniform
THUMBNAIL_WIDTH = 256
# Containers that state their length, so that a truncated file can be told from a short one.
STATES_ITS_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class DecodeError(ValueError):
    """Nothing could be read from a file; the message says why."""


@dataclass(frozen=True)
class Media:
    """What one file holds: facts, then pixels (uint8 RGB, upright) and sound. A part that the file does not have is None."""

    duration_s: float | None = None
    frames: int | None = None
    fps: float | None = None
    width: int | None = None  # as displayed
    height: int | None = None
    sample_rate: int | None = None  # of the file, not of `waveform`
    images: np.ndarray | None = None  # [frames, size, size, 3], evenly spaced
    cover: np.ndarray | None = None  # [size, size, 3]
    cover_jpeg: bytes | None = None  # the cover uncropped, at most 256 pixels wide
    clip: np.ndarray | None = None  # [frames, size, size, 3], consecutive
    waveform: np.ndarray | None = None  # float32 [samples], mono, -1..1, at the configured sample rate
    faults: tuple[str, ...] = ()


def decode(uri: str, settings: Features) -> Media:
    """Read a file (a local path, or any URI that pyarrow or fsspec opens). Raises `DecodeError` when it yields nothing."""
    with _opened(uri) as container:
        picture = next((stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None)
        sound = next(iter(container.streams.audio), None)
        packets, fault = _packets(container, [stream for stream in (picture, sound) if stream is not None])
        if not any(packets.values()):
            raise DecodeError(fault or "it holds neither picture nor sound")
        media = Media(duration_s=_duration(container, packets), faults=(fault,) if fault else ())
        if picture is not None and packets[picture.index]:
            media = _look(media, picture, packets[picture.index], settings)
        if sound is not None and packets[sound.index]:
            media = _listen(media, sound, packets[sound.index], settings)
    if media.cover_jpeg is None and media.waveform is None and media.faults:
        raise DecodeError("; ".join(media.faults))
    return media


def locate(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path inside it. Remote filesystems are opened once per host, not once per file."""
    scheme, remote, rest = uri.partition("://")
    if not remote or scheme == "file" or "?" in rest:
        return open_filesystem(uri)
    host = rest.partition("/")[0]
    filesystem, root = _filesystem(f"{scheme}://{host}")
    return filesystem, root + rest[len(host) :]


@lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    return open_filesystem(root)


@contextmanager
def _opened(uri: str) -> Iterator[InputContainer]:
    try:
        filesystem, path = locate(uri)
        file = filesystem.open_input_file(path)
    except FileNotFoundError:
        raise DecodeError("there is no such file") from None
    except (OSError, ImportError, ValueError, pa.ArrowException) as error:
        raise DecodeError(f"the file can't be opened: {error}") from error
    with file:
        if file.size() == 0:
            raise DecodeError("the file is empty")
        try:
            # No protocols: playlists and `ffconcat` scripts, which would make FFmpeg open other files or addresses, are refused.
            options = {"protocol_whitelist": "none"}
            container = av.open(file, options=options, metadata_errors="replace", buffer_size=1 << 20)
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(_why_not_media(file)) from error
        with container:
            yield container


def _why_not_media(file: pa.NativeFile) -> str:
    file.seek(0)
    head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "truncated or damaged: an mp4 whose index (moov) is missing or can't be read"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "truncated or damaged: a webm or matroska file whose header can't be read"
    return "not a video or sound file"


def _packets(container: InputContainer, streams: list[Any]) -> tuple[dict[int, list[av.Packet]], str | None]:
    """The compressed packets of each stream by its index, and a fault when the file ends before it should."""
    packets: dict[int, list[av.Packet]] = {stream.index: [] for stream in streams}
    if not streams:
        return packets, None
    try:
        for packet in container.demux(streams):
            if packet.size:
                packets[packet.stream.index].append(packet)
    except (av.FFmpegError, OSError) as error:
        return packets, f"damaged: reading stopped after {_end(packets):.1f} s ({error.strerror})"
    stated = container.duration / av.time_base if container.duration else 0.0
    if container.format.name in STATES_ITS_LENGTH and stated - _end(packets) > max(0.5, TOLERATED_LOSS * stated):
        return packets, f"truncated: only {_end(packets):.1f} of {stated:.1f} s are in the file"
    return packets, None


def _end(packets: dict[int, list[av.Packet]]) -> float:
    """When the last packet ends, in seconds."""
    return max((float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in _timed(packets)), default=0.0)


def _timed(packets: dict[int, list[av.Packet]]) -> list[av.Packet]:
    return [packet for stream in packets.values() for packet in stream if packet.pts is not None]


def _duration(container: InputContainer, packets: dict[int, list[av.Packet]]) -> float:
    """In seconds; the stated one, which a truncated file keeps, or else what the packets span."""
    if container.duration:
        return container.duration / av.time_base
    return _end(packets) - min((float(packet.pts * packet.time_base) for packet in _timed(packets)), default=0.0)


def _decoded(stream: Any, packets: list[av.Packet], failures: list[str]) -> Iterator[Any]:
    """The frames of a stream, in the order of display; a packet that can't be decoded adds its reason to `failures`."""
    for packet in [*packets, None]:
        try:
            yield from stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            failures.append(error.strerror)


def _faults(part: str, yielded: bool, packets: list[av.Packet], failures: list[str]) -> tuple[str, ...]:
    if yielded and len(failures) <= TOLERATED_LOSS * len(packets):
        return ()
    what = f"{len(failures)} of {len(packets)} packets could" if yielded else "nothing could"
    return (f"{part}: {what} not be decoded" + (f" ({failures[0]})" if failures else ""),)


# --- sound ----------------------------------------------------------------------------------------------------------------------


def _listen(media: Media, sound: AudioStream, packets: list[av.Packet], settings: Features) -> Media:
    media = replace(media, sample_rate=sound.codec_context.sample_rate or None)
    if settings.audio is None:
        return media
    chunks: list[np.ndarray] = []
    failures: list[str] = []
    # The mean over channels is taken here: FFmpeg's own mix of two equal channels is 3 dB louder than either.
    resampler = av.AudioResampler(format="fltp", rate=settings.audio.sample_rate)
    try:
        for frame in chain(_decoded(sound, packets, failures), [None]):
            chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
    except ValueError as error:  # the resampler's, when the format changes within the stream
        return replace(media, faults=(*media.faults, f"sound: {error}"))
    waveform = np.concatenate(chunks) if chunks else None
    return replace(media, waveform=waveform, faults=media.faults + _faults("sound", waveform is not None, packets, failures))


# --- picture --------------------------------------------------------------------------------------------------------------------


class _Squares:
    """Collects the frames at given positions as squares: the short side resized, then the centre cropped."""

    def __init__(self, positions: np.ndarray, size: int) -> None:
        self.positions, self.size = positions, size
        self.taken: dict[int, np.ndarray] = {}
        self.wanted = set(positions.tolist())
        self.reformatter = VideoReformatter()

    def take(self, position: int, frame: VideoFrame) -> None:
        if position in self.wanted:
            self.taken[position] = self.square(frame)

    def square(self, frame: VideoFrame) -> np.ndarray:
        size, short = self.size, min(frame.width, frame.height)
        # A strip of more than 8:1 is squeezed, or else it would not fit into memory.
        width, height = (min(max(size, round(side * size / short)), 8 * size) for side in (frame.width, frame.height))
        pixels = self.reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        left, top = (width - size) // 2, (height - size) // 2
        return _upright(pixels[top : top + size, left : left + size], frame)

    def stack(self) -> np.ndarray | None:
        """[positions, size, size, 3]; a position that was not decoded repeats the last one before it (or else the first)."""
        if not self.taken:
            return None
        known = np.array(sorted(self.taken))
        nearest = known[np.maximum(np.searchsorted(known, self.positions, side="right") - 1, 0)]
        return np.stack([self.taken[position] for position in nearest.tolist()])


def even_positions(total: int, count: int) -> np.ndarray:
    """The middle frames of `count` equal parts of a video of `total` frames."""
    return ((np.arange(count) + 0.5) * total / count).astype(int)


def clip_positions(total: int, count: int) -> np.ndarray:
    """`count` consecutive frames from the middle of a video of `total` frames; the last one repeats when there are fewer."""
    return np.minimum(np.arange(count) + max(0, (total - count) // 2), total - 1)


def _look(media: Media, picture: VideoStream, packets: list[av.Packet], settings: Features) -> Media:
    picture.codec_context.thread_count = 1  # a decoder owns one CPU
    total = max(1, sum(not packet.is_discard for packet in packets))
    rate = picture.average_rate or picture.guessed_rate
    fps = float(rate) if rate else None
    images = _Squares(even_positions(total, settings.image.frames), settings.image.size) if settings.image else None
    clip = _Squares(clip_positions(total, settings.motion.frames), settings.motion.size) if settings.motion else None
    collectors = [collector for collector in (images, clip) if collector]
    cover = _Cover(total, fps or 25.0, [position for collector in collectors for position in collector.wanted])
    failures: list[str] = []
    for position, frame in enumerate(_decoded(picture, packets, failures)):
        for collector in collectors:
            collector.take(position, frame)
        cover.consider(position, frame)
        if position >= cover.last:
            break
    faults = _faults("picture", cover.best is not None, packets, failures)
    media = replace(media, frames=total, fps=fps, faults=media.faults + faults)
    if cover.best is None:
        return media
    width, height = cover.best.width, cover.best.height
    if cover.best.rotation % 180:
        width, height = height, width
    return replace(
        media,
        width=width,
        height=height,
        images=images.stack() if images else None,
        cover=images.square(cover.best) if images else None,
        cover_jpeg=_jpeg(cover.best, min(THUMBNAIL_WIDTH, width) / width),
        clip=clip.stack() if clip else None,
    )


class _Cover:
    """Chooses the first frame of the first two seconds that is not nearly uniform, four looks a second.

    When all of those are (a fade from black), the other frames that are decoded anyway are tried, and the most contrasted one wins.
    """

    def __init__(self, total: int, fps: float, others: list[int]) -> None:
        early = range(0, max(1, min(total, round(2 * fps))), max(1, round(fps / 4)))
        self.candidates = {*early, *others}
        self.last = max(self.candidates)
        self.best: VideoFrame | None = None
        self.contrast = -1.0
        self.reformatter = VideoReformatter()

    def consider(self, position: int, frame: VideoFrame) -> None:
        if self.contrast >= CONTRAST or position not in self.candidates:
            return
        contrast = float(self.reformatter.reformat(frame, 32, 32, "gray", threads=1).to_ndarray().std())
        if contrast > self.contrast:
            self.best, self.contrast = frame, contrast


def _jpeg(frame: VideoFrame, scale: float) -> bytes:
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    pixels = _upright(frame.reformat(width, height, "rgb24", threads=1).to_ndarray(), frame)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turned as the file says that it is to be shown: phones store portrait videos lying on their side."""
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
