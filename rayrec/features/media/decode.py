"""Reads one media file, once, and keeps only what features are computed from.

From the picture it keeps frames that are sampled evenly, a cover, and clips of consecutive frames; from the sound, one mono
waveform. A file without picture or without sound is normal. For a part that is damaged there is a sentence in `Media.faults`, and
what could be read of it is used. The compressed packets of the file are in memory while it is decoded: some megabytes for a short
video.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

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
from rayrec.features.media.packets import DecodingCounts, Packets, decoded, duration, frame_count, frames_at, read_packets


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
    cover_jpeg: bytes | None = None  # the cover uncropped, at most 256 pixels wide
    clips: np.ndarray | None = None  # [clips, frames, size, size, 3], each of consecutive frames
    waveform: np.ndarray | None = None  # float32 [samples], mono, -1..1, at the configured sample rate
    faults: tuple[str, ...] = ()


def decode(uri: str, settings: Features) -> Media:
    """Read a file (a local path, or any URI that pyarrow or fsspec opens). Raises `DecodeError` when nothing can be read."""
    with _opened(uri) as container:
        picture = next((stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic), None)
        sound = next(iter(container.streams.audio), None)
        packets, fault = read_packets(container, [stream for stream in (picture, sound) if stream is not None])
        if not any(packets.values()):
            raise DecodeError(fault or "it has neither picture nor sound")
        media = Media(duration_s=duration(container, packets), faults=(fault,) if fault else ())
        if picture is not None and packets[picture.index]:
            media = _with_picture(media, picture, packets[picture.index], settings)
        if sound is not None and packets[sound.index]:
            media = _with_sound(media, sound, packets[sound.index], settings)
    if media.cover_jpeg is None and media.waveform is None and media.faults:
        raise DecodeError("; ".join(media.faults))
    return media


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
    # The mean over the channels is taken here, because FFmpeg's mix of two equal channels is 3 dB louder than either.
    resampler = av.AudioResampler(format="fltp", rate=settings.audio.sample_rate)
    try:
        for frame in chain(decoded(sound, packets, counts), [None]):
            chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
    except ValueError as error:  # from the resampler, when the format changes within the stream
        return replace(media, faults=(*media.faults, f"sound: {error}"))
    waveform = np.concatenate(chunks) if chunks else None
    return replace(media, waveform=waveform, faults=media.faults + counts.faults("sound", waveform is not None))


def _with_picture(media: Media, picture: VideoStream, packets: Packets, settings: Features) -> Media:
    picture.codec_context.thread_count = 1  # because every decoder reserves one CPU
    total = frame_count(packets)
    rate = picture.average_rate or picture.guessed_rate
    fps = float(rate) if rate else None
    images = clips = None
    if settings.image is not None:
        images = Squares(_sampled(settings.image, total, fps or 25.0), settings.image.size, settings.image.resize)
    if settings.motion is not None:
        positions = clip_positions(total, settings.motion.frames, settings.motion.clips)
        clips = Squares(positions, settings.motion.size, settings.motion.resize)
    collectors = [collector for collector in (images, clips) if collector is not None]
    cover, counts = Cover(total, fps or 25.0), DecodingCounts()
    for _, frame in frames_at(picture, packets, cover.early, counts):
        cover.consider(frame)
        if cover.found:
            break
    for position, frame in frames_at(
        picture, packets, {position for collector in collectors for position in collector.wanted}, counts
    ):
        for collector in collectors:
            collector.take(position, frame)
        cover.consider(frame)
    media = replace(media, frames=total, fps=fps, faults=media.faults + counts.faults("picture", cover.best is not None))
    if cover.best is None:
        return media
    width, height = displayed(cover.best)
    return replace(
        media,
        width=width,
        height=height,
        images=images.stack() if images else None,
        cover=images.square(cover.best) if images else None,
        cover_jpeg=thumbnail(cover.best),
        clips=clips.stack() if clips else None,
    )


def _sampled(settings: ImageFeatures, total: int, fps: float) -> np.ndarray:
    """The positions of the frames that the image network sees."""
    if settings.fps is None:
        return even_positions(total, settings.frames)
    return even_positions(total, max(1, min(settings.frames, total, round(total / fps * settings.fps))))
