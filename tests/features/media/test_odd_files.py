"""Whole files whose container says something else than their contents, and streams of which only a part can be read."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from rayrec.config import Features, ImageFeatures, MotionFeatures
from rayrec.features.media.decode import DecodeError, Media, decode
from rayrec.features.media.timeline import DecodingCounts
from tests.features.clips import RATE, cut, numbered, tone

MILLISECOND = Fraction(1, 1000)
SETTINGS = Features(image=ImageFeatures(frames=8, size=32), motion=None)


def add_picture(container: OutputContainer, size: tuple[int, int] = (64, 96), codec: str = "libx264") -> VideoStream:
    """A stream for frames whose times are given in milliseconds."""
    stream = container.add_stream(codec, rate=25, options={"g": "12", "bf": "2"} if codec == "libx264" else {})
    stream.height, stream.width = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    stream.codec_context.time_base = MILLISECOND
    return stream


def add_sound(container: OutputContainer, codec: str = "aac") -> AudioStream:
    return container.add_stream(codec, rate=RATE, layout="mono")


def put_frames(container: OutputContainer, stream: VideoStream, pixels: Sequence[np.ndarray], times: Sequence[int]) -> None:
    for picture, time in zip(pixels, times, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = time, MILLISECOND
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def put_sound(container: OutputContainer, stream: AudioStream, samples: np.ndarray, start_s: float = 0) -> None:
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, round(start_s * RATE), Fraction(1, RATE)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def greys(media: Media) -> list[int]:
    """What the corner opposite to the white one shows in each sampled frame."""
    return media.images[:, 24, 24, 0].tolist()


def grey(index: int, total: int) -> int:
    return int(numbered(index, total)[-1, -1, 0])


# --- how long, and whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_second_sound_that_is_longer_is_no_missing_end(tmp_path: Path, suffix: str) -> None:
    path, times = tmp_path / f"a{suffix}", range(0, 2000, 40)
    with av.open(str(path), "w") as container:
        picture, first, second = add_picture(container), add_sound(container), add_sound(container)
        second.disposition = 0
        put_frames(container, picture, [numbered(index, 50) for index in range(50)], times)
        put_sound(container, first, tone(440, 2.0))
        put_sound(container, second, tone(330, 20.0))
    media = decode(str(path), SETTINGS)
    assert media.faults == ()
    assert media.duration_s == pytest.approx(2.0, abs=0.1)
    assert len(media.waveform) == pytest.approx(2.0 * RATE, rel=0.05)


def test_a_file_that_ends_early_is_still_noticed(tmp_path: Path) -> None:
    for suffix, options in ((".mp4", {"movflags": "faststart"}), (".mkv", {})):
        path = tmp_path / f"whole{suffix}"
        with av.open(str(path), "w", options=options) as container:
            picture = add_picture(container)
            noise = np.random.default_rng(1).integers(0, 256, (50, 64, 96, 3), dtype=np.uint8)
            put_frames(container, picture, list(noise), range(0, 10_000, 200))
        media = decode(str(cut(path, tmp_path / f"cut{suffix}", 0.6)), SETTINGS)
        assert [fault.partition(":")[0] for fault in media.faults] in (["truncated"], ["damaged"]), suffix
        assert media.duration_s == pytest.approx(10.0, abs=0.3), suffix


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_the_duration_is_what_is_played_whenever_it_begins(tmp_path: Path, suffix: str) -> None:
    path, start = tmp_path / f"a{suffix}", 36_000_000
    with av.open(str(path), "w") as container:
        picture, sound = add_picture(container), add_sound(container)
        put_frames(container, picture, [numbered(index, 50) for index in range(50)], range(start, start + 2000, 40))
        put_sound(container, sound, tone(440, 2.0), start / 1000)
    media = decode(str(path), SETTINGS)
    assert media.duration_s == pytest.approx(2.0, abs=0.1)
    assert (media.frames, media.faults) == (50, ())
    assert greys(media) == pytest.approx([grey(3 + 25 * part // 4, 50) for part in range(8)], abs=5)


# --- which frames ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_frames_are_sampled_by_time(tmp_path: Path, suffix: str) -> None:
    """40 frames in the first second, then ten in nine seconds: what a player shows at the middles of eight parts of ten seconds."""
    times = [*range(0, 1000, 25), *range(1000, 10_000, 900)]
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        put_frames(container, add_picture(container), [numbered(index, 50) for index in range(50)], times)
    both = Features(image=SETTINGS.image, motion=MotionFeatures(frames=4, clips=2, size=32))
    media = decode(str(path), both)
    assert media.duration_s == pytest.approx(10.0, abs=0.9)  # the container may not say how long the last frame is shown
    moments = (np.arange(8) + 0.5) / 8 * media.duration_s * 1000
    shown = [max(index for index, time in enumerate(times) if time <= moment) for moment in moments]
    assert greys(media) == pytest.approx([grey(index, 50) for index in shown], abs=3)
    middles = [max(index for index, time in enumerate(times) if time <= share * media.duration_s * 1000) for share in (0.25, 0.75)]
    for clip, middle in zip(media.clips, middles, strict=True):
        assert clip[:, 24, 24, 0].mean() == pytest.approx(grey(middle, 50), abs=6)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_frames_that_cannot_be_shown_are_not_counted(tmp_path: Path, suffix: str) -> None:
    """A recording that starts in the middle of a group of pictures."""
    whole, path = tmp_path / "whole.mkv", tmp_path / f"a{suffix}"
    with av.open(str(whole), "w") as container:
        put_frames(container, add_picture(container), [numbered(index, 60) for index in range(60)], range(0, 2400, 40))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        picture = source.streams.video[0]
        copy = target.add_stream_from_template(picture)
        packets = [packet for packet in source.demux(picture) if packet.size]
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
        for packet in packets[5:]:
            packet.stream = copy
            target.mux(packet)
    assert keys[:2] == [0, 12]
    media = decode(str(path), SETTINGS)
    assert media.frames == 48
    assert greys(media) == pytest.approx([grey(12 + 3 + 6 * part, 60) for part in range(8)], abs=3)


def test_a_small_or_still_jpeg_is_not_the_video(tmp_path: Path) -> None:
    for name, size, count in (("small", (32, 32), 40), ("still", (256, 256), 1)):
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as container:
            other = add_picture(container, size, "mjpeg")
            picture = add_picture(container)
            put_frames(container, other, [np.full((*size, 3), 255, np.uint8)] * count, range(0, 40 * count, 40))
            put_frames(container, picture, [numbered(index, 40) for index in range(40)], range(0, 1600, 40))
        media = decode(str(path), SETTINGS)
        assert (media.width, media.height, media.frames, media.faults) == (96, 64, 40, ()), name


# --- as displayed ---------------------------------------------------------------------------------------------------------------

ONE = 1 << 16
ORIENTATIONS = [(a, 0, 0, d) for a in (ONE, -ONE) for d in (ONE, -ONE)] + [(0, b, c, 0) for b in (ONE, -ONE) for c in (ONE, -ONE)]


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_pictures_are_turned_and_mirrored_as_the_matrix_says(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    corners = np.kron(np.array([[40, 90], [150, 220]], np.uint8), np.ones((32, 48), np.uint8))
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = add_picture(container)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        put_frames(container, stream, [np.repeat(corners[..., None], 3, axis=2)] * 4, range(0, 160, 40))
    # Where each point goes, as ISO/IEC 14496-12 defines the matrix: x' = a x + c y, y' = b x + d y.
    points = {}
    for y in range(64):
        for x in range(96):
            points[(b * x + d * y) // ONE, (a * x + c * y) // ONE] = corners[y, x]
    rows, columns = (sorted({point[axis] for point in points}) for axis in (0, 1))
    expected = np.array([[points[row, column] for column in columns] for row in rows])

    media = decode(str(path), SETTINGS)
    assert (media.height, media.width) == expected.shape
    thumbnail = np.asarray(Image.open(io.BytesIO(media.cover_jpeg)).convert("L"))
    assert thumbnail.shape == expected.shape
    assert np.abs(thumbnail[4:-4:8, 4:-4:8].astype(int) - expected[4:-4:8, 4:-4:8]).mean() < 6
    for (y, x), (row, column) in {(4, 4): (0, 0), (4, 27): (0, -1), (27, 4): (-1, 0), (27, 27): (-1, -1)}.items():
        assert media.images[0, y, x, 0] == pytest.approx(expected[row, column], abs=6)


@pytest.mark.parametrize(("aspect", "shown"), [(Fraction(2), (192, 64)), (Fraction(1, 2), (48, 64)), (Fraction(4, 3), (128, 64))])
def test_pixels_that_are_not_square(tmp_path: Path, aspect: Fraction, shown: tuple[int, int]) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = add_picture(container)
        stream.codec_context.sample_aspect_ratio = aspect
        put_frames(container, stream, [numbered(0, 2), numbered(1, 2)], [0, 40])
    media = decode(str(path), SETTINGS)
    assert (media.width, media.height) == shown
    assert Image.open(io.BytesIO(media.cover_jpeg)).size == shown


# --- what can be read of it -----------------------------------------------------------------------------------------------------


def test_a_stream_without_a_decoder_does_not_lose_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        picture, sound = add_picture(container), add_sound(container)
        put_frames(container, picture, [numbered(index, 50) for index in range(50)], range(0, 2000, 40))
        put_sound(container, sound, tone(440, 2.0))
    whole = path.read_bytes()
    unknown_picture = whole.replace(b"V_MPEG4/ISO/AVC", b"V_ODDLY/ISO/AVC")
    path.write_bytes(unknown_picture)
    media = decode(str(path), SETTINGS)
    assert media.faults == ("picture: there is no decoder for its format",)
    assert media.images is None
    assert len(media.waveform) == pytest.approx(2.0 * RATE, rel=0.05)
    path.write_bytes(whole.replace(b"A_AAC", b"A_ODD"))
    media = decode(str(path), SETTINGS)
    assert media.faults == ("sound: there is no decoder for its format",)
    assert media.waveform is None
    assert media.frames == 50
    path.write_bytes(unknown_picture.replace(b"A_AAC", b"A_ODD"))
    with pytest.raises(DecodeError, match="picture: there is no decoder for its format; sound: there is no decoder"):
        decode(str(path), SETTINGS)


@pytest.mark.parametrize(
    ("codec", "layout", "channels"),
    [
        ("pcm_s16le", "stereo", 2),
        ("flac", "5.1", 6),
        ("pcm_s16le", "7.1", 8),
        ("flac", "7.1", 8),
        ("pcm_s16le", "hexadecagonal", 16),
    ],
)
def test_the_sound_is_the_mean_of_all_channels(tmp_path: Path, codec: str, layout: str, channels: int) -> None:
    sound, gains = tone(440, 1.0), np.arange(1, channels + 1) / channels
    samples = np.round(np.outer(sound, gains) * 32767).astype(np.int16)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    waveform = decode(str(path), SETTINGS).waveform
    assert len(waveform) == RATE
    assert np.abs(waveform - sound * gains.mean()).max() < 1e-3


def test_sound_goes_on_where_its_rate_and_channels_change(tmp_path: Path) -> None:
    """A second of one tone in mono at 48 kHz, then one of another in stereo at 22.05 kHz, as broadcasts switch programmes."""
    data = b""
    for hz, rate, layout, channels in ((440, 48_000, "mono", 1), (880, RATE, "stereo", 2)):
        part = tmp_path / f"{hz}.aac"
        with av.open(str(part), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(np.stack([tone(hz, 1.0, rate)] * channels), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        data += part.read_bytes()
    (tmp_path / "a.aac").write_bytes(data)
    media = decode(str(tmp_path / "a.aac"), SETTINGS)
    assert media.faults == ()
    assert len(media.waveform) == pytest.approx(2 * RATE, rel=0.1)
    for hz, middle in ((440, RATE // 2), (880, 3 * RATE // 2)):
        spectrum = np.abs(np.fft.rfft(media.waveform[middle - 4096 : middle + 4096]))
        assert spectrum.argmax() * RATE / 8192 == pytest.approx(hz, abs=5)


def test_what_a_fault_says() -> None:
    assert DecodingCounts(3, ["odd"]).faults("picture", False) == ("picture: nothing could be decoded (odd)",)
    assert DecodingCounts(10, ["odd"]).faults("sound", True) == ("sound: 1 of 10 packets could not be decoded (odd)",)
    assert DecodingCounts(100, ["odd"]).faults("sound", True) == ()
