"""Reads one media file, once, and keeps only what features are computed from.

From the picture it keeps frames that are sampled evenly, a cover, and clips of consecutive frames; from the sound, one mono
waveform. A file without picture or without sound is normal. For a part that is damaged there is a sentence in `Media.faults`, and
what could be read of it is used. The compressed packets of the file are in memory while it is decoded: some megabytes for a short
video.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

import av
import numpy as np
import pyarrow as pa
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from rayrec.config import Features, ImageFeatures
from rayrec.errors import RayrecError
from rayrec.features.media.files import locate
from rayrec.features.media.frames import Cover, Squares, clip_positions, displayed, even_positions, thumbnail
from rayrec.features.media.packets import Packets, played_span, read_packets
from rayrec.features.media.timeline import DecodingCounts, Timeline, decoded
from rayrec.workspace.files import is_special

STILL = Disposition.attached_pic | Disposition.timed_thumbnails  # pictures about the video, such as the cover of a piece of music
DEFAULT_BONUS = 5_000_000  # pixels that a smaller picture makes up for by being marked as the default, as in FFmpeg


TOO_LARGE = "decoding takes more than half of the machine's memory"  # where a process is limited to that, a `MemoryError` comes


class DecodeError(RayrecError):
    """Nothing could be read from a file; the message says why."""


@dataclass(frozen=True)
class Media:
    """The contents of a file: facts, then pixels (uint8 RGB, upright) and sound. A part that the file lacks is None."""

    duration_s: float | None = None
    frames: int | None = None
    fps: float | None = None
    width: int | None = None  # as displayed
    height: int | None = None
    sample_rate: int | None = None  # of the file, not of `waveform`
    images: np.ndarray | None = None  # [frames, size, size, 3], evenly spaced
    cover: np.ndarray | None = None  # [size, size, 3]
    cover_jpeg: bytes | None = None  # the cover uncropped, in its `kept_size`
    clips: np.ndarray | None = None  # [clips, frames, size, size, 3], each of consecutive frames
    waveform: np.ndarray | None = None  # float32 [samples], mono, -1..1, at the configured sample rate
    faults: tuple[str, ...] = ()


def decode(source: str | bytes, settings: Features) -> Media:
    """Read a file: a path, any URI that pyarrow or fsspec opens, or its bytes. Raises `DecodeError` if nothing can be read."""
    with _opened(source) as container:
        moving = [stream for stream in container.streams.video if not stream.disposition & STILL]
        pictures, no_picture = _decodable("picture", moving)
        sounds, no_sound = _decodable("sound", container.streams.audio)
        contents = read_packets(container, [*pictures, *sounds])
        picture, sound = _played_picture(pictures, contents.packets), _played_sound(sounds, contents.packets)
        duration_s, fault = played_span(container, [stream for stream in (picture, sound) if stream is not None], contents)
        media = Media(duration_s=duration_s, faults=tuple(filter(None, (fault, no_picture, no_sound))))
        if picture is not None:
            media = _with_picture(media, picture, contents.packets[picture.index], settings)
        if sound is not None:
            media = _with_sound(media, sound, contents.packets[sound.index], settings)
    if picture is None and sound is None:
        raise DecodeError("; ".join(media.faults) or "it has neither picture nor sound")
    if media.cover_jpeg is None and media.waveform is None and media.faults:
        raise DecodeError("; ".join(media.faults))
    return media


def _decodable(part: str, streams: Sequence[Any]) -> tuple[list[Any], str | None]:
    """The streams for which there is a decoder, and a fault when there is none for any of them."""
    found = [stream for stream in streams if stream.codec_context is not None]
    return found, f"{part}: there is no decoder for its format" if streams and not found else None


def _played_picture(streams: list[VideoStream], packets: dict[int, Packets]) -> VideoStream | None:
    """The picture that a player shows, which FFmpeg chooses in the same way: a moving one, the default, the largest, the first."""

    def rank(stream: VideoStream) -> tuple[bool, int]:
        context = stream.codec_context
        area = context.width * context.height
        return len(packets[stream.index]) > 1, area + DEFAULT_BONUS * bool(stream.disposition & Disposition.default)

    return max((stream for stream in streams if packets[stream.index]), key=rank, default=None)


def _played_sound(streams: list[AudioStream], packets: dict[int, Packets]) -> AudioStream | None:
    """The first sound that is marked as the default, or else the first."""
    heard = (stream for stream in streams if packets[stream.index])
    return max(heard, key=lambda stream: bool(stream.disposition & Disposition.default), default=None)


def _file(source: str | bytes) -> pa.NativeFile:
    if isinstance(source, bytes):
        return pa.BufferReader(source)
    try:
        filesystem, path = locate(source)
        if is_special(filesystem, path):
            raise DecodeError("it is no regular file but a pipe, a socket or a device")
        return filesystem.open_input_file(path)
    except FileNotFoundError:
        raise DecodeError("there is no such file") from None
    except (OSError, ImportError, ValueError, pa.ArrowException) as error:
        raise DecodeError(f"the file can't be opened: {error}") from error


@contextmanager
def _opened(source: str | bytes) -> Iterator[InputContainer]:
    file = _file(source)
    with file:
        if file.size() == 0:
            raise DecodeError("the file is empty")
        try:
            # Without protocols, FFmpeg refuses playlists and `ffconcat` scripts, which would make it open other files or addresses.
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


def _with_sound(media: Media, sound: AudioStream, packets: Packets, settings: Features) -> Media:
    media = replace(media, sample_rate=sound.codec_context.sample_rate or None)
    if settings.audio is None:
        return media
    chunks: list[np.ndarray] = []
    counts = DecodingCounts()
    try:
        # A resampler takes frames of one kind. The kind may change within a recording of a broadcast, and then a new one is needed.
        for _, frames in groupby(decoded(sound, packets, counts), key=_kind):
            # The mean over the channels is taken here, because FFmpeg's mix of two equal channels is 3 dB louder than either. The
            # samples are packed, because PyAV reads beyond the planes of eight channels or more, and the process crashes.
            resampler = av.AudioResampler(format="flt", rate=settings.audio.sample_rate)
            for frame in chain(frames, [None]):
                for part in resampler.resample(frame):
                    chunks.append(part.to_ndarray().reshape(-1, part.layout.nb_channels).mean(axis=1))
    except (ValueError, av.FFmpegError) as error:  # from the resampler, which takes at most 64 channels
        media = replace(media, faults=(*media.faults, f"sound: it can't be resampled ({error})"))
    waveform = np.concatenate(chunks) if chunks else None
    return replace(media, waveform=waveform, faults=media.faults + counts.faults("sound", waveform is not None))


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _with_picture(media: Media, picture: VideoStream, packets: Packets, settings: Features) -> Media:
    picture.codec_context.thread_count = 1  # because every decoder reserves one CPU
    timeline = Timeline.of(picture, packets)
    samples = _Samples(timeline, picture, settings)
    if not samples.complete and timeline.shown is not None:  # the packets promised frames that are not there
        timeline = Timeline.by_decoding(picture, packets)
        samples = _Samples(timeline, picture, settings)
    rate = picture.average_rate or picture.guessed_rate
    best, images, clips = samples.cover.best, samples.images, samples.clips
    faults = media.faults + samples.counts.faults("picture", best is not None)
    duration_s = media.duration_s or timeline.starts[-1] - timeline.starts[0]  # a bare stream of frames has no times
    media = replace(media, duration_s=duration_s, frames=len(timeline), fps=float(rate) if rate else None, faults=faults)
    if best is None:
        return media
    width, height = displayed(best, samples.pixel_aspect)
    return replace(
        media,
        width=width,
        height=height,
        images=images.stack() if images else None,
        cover=images.square(best) if images else None,
        cover_jpeg=thumbnail(best, samples.pixel_aspect, settings.cover_side),
        clips=clips.stack() if clips else None,
    )


class _Samples:
    """The frames that the settings ask for, decoded."""

    def __init__(self, timeline: Timeline, picture: VideoStream, settings: Features) -> None:
        self.counts = DecodingCounts()
        self.pixel_aspect = float(picture.sample_aspect_ratio or 1)
        self.images = self.clips = None
        if (image := settings.image) is not None:
            positions = even_positions(timeline.starts, _sample_count(image, timeline.starts))
            self.images = Squares(positions, image.size, image.resize, self.pixel_aspect)
        if (motion := settings.motion) is not None:
            positions = clip_positions(timeline.starts, motion.frames, motion.clips)
            self.clips = Squares(positions, motion.size, motion.resize, self.pixel_aspect)
        self.cover = Cover(timeline.starts)
        self.collectors = [collector for collector in (self.images, self.clips) if collector is not None]
        wanted = {position for collector in self.collectors for position in collector.wanted}
        self.complete = self._take(timeline, wanted)

    def _take(self, timeline: Timeline, wanted: set[int]) -> bool:
        """Decode the frames at the wanted positions and the cover; whether all of the former are there."""
        for _, frame in timeline.frames_at(self.cover.early, self.counts):
            self.cover.consider(frame)
            if self.cover.found:
                break
        found = 0
        for position, frame in timeline.frames_at(wanted, self.counts):
            for collector in self.collectors:
                collector.take(position, frame)
            self.cover.consider(frame)
            found += 1
        return found == len(wanted) and self.cover.best is not None


def _sample_count(settings: ImageFeatures, starts: np.ndarray) -> int:
    """How many frames the image network sees."""
    if settings.fps is None:
        return settings.frames
    return max(1, min(settings.frames, len(starts) - 1, round((starts[-1] - starts[0]) * settings.fps)))
