"""Decoding against clips whose content was chosen here, and against FFmpeg's own facts about real ones."""

import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rayrec.config import Features, ImageFeatures, MotionFeatures
from rayrec.features.media.decode import DecodeError, decode
from tests.features.clips import RATE, cut, numbered, tone, turned, write_clip


def grey_of(index: int, total: int) -> float:
    return float(numbered(index, total)[-1, -1, 0])


def test_facts_are_those_that_were_encoded(tmp_path: Path, small: Features) -> None:
    media = decode(str(write_clip(tmp_path / "a.mp4", frames=30, fps=15, sound=tone(440, 2.0))), small)
    assert (media.frames, media.fps, media.width, media.height, media.sample_rate) == (30, 15.0, 96, 64, RATE)
    assert media.duration_s == pytest.approx(2.0, abs=0.1)
    assert media.faults == ()
    assert len(media.waveform) == pytest.approx(2.0 * RATE, rel=0.05)
    assert media.waveform.dtype == np.float32


def test_frames_and_clips_are_spread_evenly(tmp_path: Path, small: Features) -> None:
    media = decode(str(write_clip(tmp_path / "a.mp4", frames=30)), small)
    assert media.images.shape == (3, 32, 32, 3)
    assert media.clips.shape == (2, 4, 32, 32, 3)
    assert media.cover.shape == (32, 32, 3)
    # The corner square is cropped away; what is left is the grey of the frame.
    assert media.images[:, 20, 20, 0] == pytest.approx([grey_of(at, 30) for at in (5, 15, 25)], abs=3)
    for clip, start in zip(media.clips, (5, 20), strict=True):
        assert clip[:, 20, 20, 0] == pytest.approx([grey_of(start + at, 30) for at in range(4)], abs=3)


@pytest.mark.parametrize(("fps", "most", "expected"), [(1, 8, 5), (0.4, 8, 2), (0.01, 8, 1), (2, 8, 8), (100, 999, 60)])
def test_frames_by_rate(tmp_path: Path, fps: float, most: int, expected: int) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=60)  # five seconds
    settings = Features(image=ImageFeatures(frames=most, fps=fps, size=32), motion=None)
    assert len(decode(str(clip), settings).images) == expected


def test_colours_and_crop(tmp_path: Path) -> None:
    def stripes(index: int, total: int) -> np.ndarray:
        frame = np.zeros((64, 128, 3), np.uint8)
        frame[:, :32], frame[:, 32:96], frame[:, 96:] = (255, 0, 0), (0, 160, 80), (0, 0, 255)
        return frame

    settings = Features(image=ImageFeatures(frames=1, size=64), motion=None)
    media = decode(str(write_clip(tmp_path / "a.mp4", frames=3, paint=stripes)), settings)
    assert media.clips is None
    inner = media.images[0, 4:-4, 4:-4].reshape(-1, 3)
    assert np.abs(inner - np.array([0, 160, 80])).max() < 12  # only the middle stripe is inside the square


def test_the_square_is_cut_from_a_larger_picture(tmp_path: Path) -> None:
    """As torchvision's Resize and CenterCrop do it."""
    path = write_clip(tmp_path / "a.mp4", frames=1, paint=lambda *_: np.kron(numbered(0, 1), np.ones((4, 4, 1), np.uint8)))
    settings = Features(image=ImageFeatures(frames=1, size=64, resize=80), motion=None)
    square = decode(str(path), settings).images[0]
    assert square.shape == (64, 64, 3)
    # The white square is a sixth of the width: of 120 x 80 pixels it takes 20 x 20, and the crop begins at (28, 8).
    assert square[:, :, 0].mean() == pytest.approx(30, abs=2)
    uncropped = decode(str(path), Features(image=ImageFeatures(frames=1, size=80), motion=None)).images[0]
    assert np.abs(uncropped[8:72, 8:72].astype(int) - square).max() <= 1


def test_the_cover_is_not_the_black_start(tmp_path: Path, small: Features) -> None:
    def fade(index: int, total: int) -> np.ndarray:
        return numbered(index, total) if index >= 5 else np.zeros((64, 96, 3), np.uint8)

    media = decode(str(write_clip(tmp_path / "a.mp4", frames=40, paint=fade)), small)
    thumbnail = np.asarray(Image.open(io.BytesIO(media.cover_jpeg)))
    assert thumbnail.shape == (64, 96, 3)  # never larger than the video
    assert thumbnail[:12, :12].mean() > 240
    assert media.cover.mean() > 30


def test_a_wide_video_gets_a_thumbnail_of_256_pixels(tmp_path: Path, small: Features) -> None:
    path = write_clip(
        tmp_path / "a.mp4", frames=2, paint=lambda index, total: np.kron(numbered(0, 1), np.ones((8, 8, 1), np.uint8))
    )
    assert Image.open(io.BytesIO(decode(str(path), small).cover_jpeg)).size == (256, 171)


def test_a_portrait_video_of_a_phone_stands_upright(tmp_path: Path, small: Features) -> None:
    path = turned(write_clip(tmp_path / "a.mp4", frames=4), tmp_path / "turned.mp4")
    media = decode(str(path), small)
    assert (media.width, media.height) == (64, 96)
    thumbnail = np.asarray(Image.open(io.BytesIO(media.cover_jpeg)))
    assert thumbnail.shape == (96, 64, 3)
    assert thumbnail[:12, -12:].mean() > 240 > 200 > thumbnail[:12, :12].mean()  # the square went from top left to top right


def test_stereo_is_mixed_down(tmp_path: Path, small: Features) -> None:
    sound = tone(330, 1.0)
    one = decode(str(write_clip(tmp_path / "1.mp4", frames=12, sound=sound)), small).waveform
    two = decode(str(write_clip(tmp_path / "2.mp4", frames=12, sound=sound, channels=2)), small).waveform
    assert len(one) == len(two)
    middle = slice(4096, 16384)
    assert np.abs(one[middle] - two[middle]).max() < 0.02
    assert np.abs(one[middle]).max() == pytest.approx(0.5, abs=0.03)


def test_missing_parts_are_normal(tmp_path: Path, small: Features) -> None:
    silent = decode(str(write_clip(tmp_path / "silent.mp4")), small)
    assert silent.waveform is None
    assert silent.sample_rate is None
    assert silent.images is not None
    assert silent.faults == ()
    blind = decode(str(write_clip(tmp_path / "blind.mp4", frames=0, sound=tone(440, 1.0))), small)
    assert blind.images is blind.cover is blind.cover_jpeg is blind.clips is blind.frames is None
    assert blind.waveform is not None
    assert blind.faults == ()
    single = decode(str(write_clip(tmp_path / "single.mp4", frames=1)), small)
    assert single.frames == 1
    assert single.images.shape[0] == 3
    assert single.clips.shape[:2] == (1, 4)
    assert single.faults == ()
    assert (single.clips == single.clips[:, :1]).all()


def test_the_start_of_a_truncated_file_is_used(tmp_path: Path, small: Features) -> None:
    whole = write_clip(tmp_path / "whole.mp4", frames=60, sound=tone(440, 5.0), index_first=True)
    media = decode(str(cut(whole, tmp_path / "cut.mp4", 0.6)), small)
    assert len(media.faults) == 1
    assert media.faults[0].startswith("truncated: only ")
    assert 5 < media.frames < 60
    assert media.images is not None
    assert len(media.waveform) < 5 * RATE
    assert media.duration_s == pytest.approx(5.0, abs=0.1)  # what the file says


def test_unreadable_files_say_why(tmp_path: Path, small: Features) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    whole = write_clip(tmp_path / "whole.mp4")
    cut(whole, tmp_path / "cut.mp4", 0.6)
    reasons = {
        "missing.mp4": "there is no such file",
        "empty.mp4": "the file is empty",
        "text.mp4": "not a video or sound file",
        "cut.mp4": r"index \(moov\) is missing",
        ".": "can't be opened",
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError, match=reason):
            decode(str(tmp_path / name), small)
    with pytest.raises(DecodeError, match="can't be opened"):
        decode("nonsense://host/a.mp4", small)


def test_a_pipe_or_a_device_is_not_read(tmp_path: Path, small: Features) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zeros.mp4").symlink_to("/dev/zero")
    for name in ("pipe.mp4", "zeros.mp4"):
        with pytest.raises(DecodeError, match="it is no regular file but a pipe, a socket or a device"):
            decode(str(tmp_path / name), small)


def test_a_script_that_names_other_files_is_refused(tmp_path: Path, small: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "secret.mp4")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.mp4\n#EXT-X-ENDLIST\n")
    for name in ("concat.mp4", "list.m3u8"):
        with pytest.raises(DecodeError, match="not a video"):
            decode(str(tmp_path / name), small)


def test_any_filesystem_will_do(tmp_path: Path, small: Features) -> None:
    import fsspec

    path = write_clip(tmp_path / "a.mp4", sound=tone(440, 2.0))
    fsspec.filesystem("memory").pipe("/clips/a.mp4", path.read_bytes())
    local, remote, uri = (decode(where, small) for where in (str(path), "memory://clips/a.mp4", path.as_uri()))
    assert (local.images == remote.images).all()
    assert (local.waveform == remote.waveform).all()
    assert (local.clips == uri.clips).all()


def test_real_clips_agree_with_ffmpeg(real_videos: list[Path]) -> None:
    settings = Features(image=ImageFeatures(frames=4, size=112), motion=MotionFeatures(frames=8, size=64))
    for path in real_videos:
        media = decode(str(path), settings)
        with av.open(str(path)) as container:
            picture, sound = container.streams.video[0], container.streams.audio[0]
            assert media.frames == picture.frames == sum(1 for _ in container.decode(picture)), path
            assert media.fps == pytest.approx(float(picture.average_rate)), path
            assert (media.width, media.height, media.sample_rate) == (picture.width, picture.height, sound.sample_rate), path
            spans = [float(stream.duration * stream.time_base) for stream in (picture, sound)]
            assert media.duration_s == pytest.approx(max(spans), abs=0.01), path
        assert len(media.waveform) / settings.audio.sample_rate == pytest.approx(media.duration_s, abs=0.2), path
        assert media.faults == (), path
        assert len(media.cover_jpeg) > 2000, path
        assert len({image.tobytes() for image in media.images}) == 4, path  # four different frames
