"""Decoding a few frames gives the very frames that decoding everything gives, and does less."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rayrec.features.media.frames import clip_positions, even_positions
from rayrec.features.media.packets import Packets
from rayrec.features.media.timeline import DecodingCounts, Timeline, decoded

FRAMES = 72
WANTED = [{0}, {FRAMES - 1}, {30, 31, 32, 50}, {7, 23, 24, 25, 47, 48, 49, 71}, {11, 12, 35, 36, 59, 60}]
# Ways of referring to other frames: pyramids of B-frames, one group or several, open ones, no keyframes at all or nothing else.
ENCODERS = {
    "usual": ("libx264", {"g": "24", "bf": "3", "b-pyramid": "normal"}),
    "one_group": ("libx264", {"g": "250", "bf": "3"}),
    "no_b_frames": ("libx264", {"g": "24", "bf": "0"}),
    "all_key": ("libx264", {"g": "1"}),
    "open_groups": ("libx264", {"g": "24", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "intra_refresh": ("libx264", {"g": "24", "bf": "0", "x264-params": "intra-refresh=1"}),
    "hevc": ("libx265", {"g": "24", "x265-params": "log-level=none:bframes=3:open-gop=1"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2"}),
    "vp9": ("libvpx-vp9", {"g": "24", "deadline": "realtime", "cpu-used": "8"}),
    "vp8": ("libvpx", {"g": "24", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
}


def drifting(path: Path, codec: str, options: dict[str, str]) -> Path:
    """A noisy pattern that drifts, so that all frames differ and refer to one another."""
    noise = np.random.default_rng(1).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 24)
        for index in range(FRAMES):
            picture = np.ascontiguousarray(np.roll(noise, (index, 2 * index), (0, 1))[:64, :96])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def check(path: Path, wanted: set[int]) -> tuple[int, int]:
    """(packets that were tried, those that there are), after every wanted frame was found equal."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        packets: Packets = [packet for packet in container.demux(stream) if packet.size]
        everything = list(decoded(stream, packets, DecodingCounts()))
        counts = DecodingCounts()
        found = list(Timeline.of(stream, packets).frames_at(wanted, counts))
    assert [position for position, _ in found] == sorted(wanted)
    for position, frame in found:
        assert frame.pts == everything[position].pts
        assert (frame.to_ndarray() == everything[position].to_ndarray()).all(), position
    assert counts.failures == []
    return counts.tried, len(packets)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(kind, ".mkv" if kind == "vp8" else ".mp4") for kind in ENCODERS]
    + [(kind, suffix) for kind in ("usual", "open_groups", "hevc") for suffix in (".mkv", ".ts")]
    + [("intra_refresh", ".ts"), ("usual", ".avi"), ("mpeg4", ".avi")],
)
def test_the_same_frames_as_decoding_everything(tmp_path: Path, kind: str, suffix: str) -> None:
    path = drifting(tmp_path / f"a{suffix}", *ENCODERS[kind])
    for wanted in WANTED:
        check(path, wanted)


def test_it_does_less(tmp_path: Path) -> None:
    path = drifting(tmp_path / "a.mp4", *ENCODERS["usual"])
    assert check(path, {0})[0] == 1
    tried, there = check(path, {25, 60})
    assert tried < 0.5 * there


def test_real_clips(real_videos: list[Path]) -> None:
    for path in real_videos:
        with av.open(str(path)) as container:
            total = container.streams.video[0].frames
        starts = np.arange(total + 1)
        check(path, set(even_positions(starts, 8).tolist()) | set(clip_positions(starts, 16, 2).ravel().tolist()))
