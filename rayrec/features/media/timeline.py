"""When each frame of a picture stream is shown, and the decoding of those frames that are wanted.

Most frames of a video are compressed as differences to others. To get a frame, one decodes from the keyframe before it. Frames in
between that no other frame refers to (the B-frames, half of a usual file) are skipped. The result is bit for bit the same as when
everything is decoded.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rayrec.features.media.packets import NO_TIMES, TOLERATED_LOSS, Packets, packet_duration

USUAL_RATE = 25.0  # frames per second, of a stream that does not tell
ROUNDING_S = 0.002  # containers round times to milliseconds; frames that are even but for this count as even


@dataclass
class DecodingCounts:
    """How many packets were decoded, and why some could not be."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def faults(self, part: str, yielded: bool) -> tuple[str, ...]:
        """A sentence about a part of the file (`picture` or `sound`), or none where it was decoded well enough."""
        if yielded and len(self.failures) <= TOLERATED_LOSS * self.tried:
            return ()
        what = f"{len(self.failures)} of {self.tried} packets could not" if yielded else "nothing could"
        return (f"{part}: {what} be decoded" + (f" ({self.failures[0]})" if self.failures else ""),)


@dataclass(frozen=True)
class Timeline:
    """The frames of a picture stream in the order of display, so that position 0 is the first one shown."""

    stream: VideoStream
    packets: Packets
    starts: np.ndarray  # float64 [frames + 1]: when each frame is shown, and when the last one ends, in seconds
    shown: list[int] | None  # the packet of each frame; None where only decoding everything tells which frames there are

    @classmethod
    def of(cls, stream: VideoStream, packets: Packets) -> "Timeline":
        """The frames by the times of the packets, or, where those can't be trusted, by decoding everything.

        They can't in a container without times, in a stream without a time of its own for every packet, and in one that was
        recorded from the middle of a group of pictures, the first of which can't be shown.
        """
        kept = [(packet, index) for index, packet in enumerate(packets) if not packet.is_discard]
        timed = sorted((packet.pts, index) for packet, index in kept if packet.pts is not None)
        times = [time for time, _ in timed]
        complete = len(kept) == len(set(times)) > 0
        if not complete or stream.container.format.name in NO_TIMES or not packets[0].is_keyframe or packets[0].pts > times[0]:
            return cls.by_decoding(stream, packets)
        shown = [index for _, index in timed]
        seconds = [float(time * stream.time_base) for time in times]
        return cls(stream, packets, _starts(seconds, packet_duration(packets[shown[-1]]), stream), shown)

    @classmethod
    def by_decoding(cls, stream: VideoStream, packets: Packets) -> "Timeline":
        times, duration = [], 0.0
        for frame in decoded(stream, packets, DecodingCounts()):
            times.append(None if frame.pts is None else float(frame.pts * stream.time_base))
            duration = float(frame.duration * stream.time_base)
        return cls(stream, packets, _starts(times, duration, stream), None)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def frames_at(self, positions: set[int], counts: DecodingCounts) -> Iterator[tuple[int, VideoFrame]]:
        """The frames at these positions, each with its position, in the order of display.

        A frame that can't be decoded from the keyframe before it (some files mark false keyframes, or count fields) is left out.
        """
        if self.shown is None:
            last = max(positions, default=-1)
            for position, frame in enumerate(decoded(self.stream, self.packets, counts) if positions else ()):
                if position in positions:
                    yield position, frame
                if position == last:
                    return
            return
        position_at = {self.packets[self.shown[position]].pts: position for position in positions}
        wanted = {self.shown[position] for position in positions}
        for run in _runs(self.packets, wanted):
            for frame in _decoded_run(self.stream, self.packets, run, wanted, counts):
                if frame.pts in position_at:
                    yield position_at.pop(frame.pts), frame


def _starts(times: Sequence[float | None], duration: float, stream: VideoStream) -> np.ndarray:
    """`Timeline.starts`, for frames that begin at these times; the last one has the given duration, if it is known."""
    frame_s = 1 / frame_rate(stream)
    even = np.arange(len(times) + 1) * frame_s
    known = [time for time in times if time is not None]
    if not known or len(known) < len(times):
        return even
    starts = np.array([*known, known[-1] + (duration or frame_s)])
    if (np.diff(starts) <= 0).any():
        return even
    even = np.linspace(starts[0], starts[-1], len(starts))
    return even if np.abs(starts - even).max() <= ROUNDING_S else starts


def frame_rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else USUAL_RATE


def decoded(stream: Any, packets: Packets, counts: DecodingCounts) -> Iterator[Any]:
    """All frames of a stream, in the order of display."""
    stream.codec_context.flush_buffers()  # removes what an earlier run left
    for packet in [*packets, None]:
        yield from _frames_of(stream, packet, counts)


def _runs(packets: Packets, wanted: set[int]) -> list[range]:
    """The ranges of packets that must be decoded to get the wanted ones. Each begins with a keyframe.

    A packet that follows a keyframe but is shown before it (in an open group of pictures) may need the previous group too.
    """
    keys = [index for index, packet in enumerate(packets) if packet.is_keyframe and packet.pts is not None]
    runs: list[range] = []
    for index in sorted(wanted):
        key = bisect_right(keys, index) - 1
        while key >= 0 and packets[keys[key]].pts > packets[index].pts:
            key -= 1
        start = keys[key] if key >= 0 else 0
        while runs and start <= runs[-1].stop:
            start = min(start, runs.pop().start)
        runs.append(range(start, index + 1))
    return runs


def _decoded_run(
    stream: VideoStream, packets: Packets, run: range, wanted: set[int], counts: DecodingCounts
) -> Iterator[VideoFrame]:
    codec = stream.codec_context
    codec.flush_buffers()
    try:
        for index in run:
            codec.skip_frame = "DEFAULT" if index in wanted else "NONREF"
            yield from _frames_of(stream, packets[index], counts)
        yield from _frames_of(stream, None, counts)
    finally:
        codec.skip_frame = "DEFAULT"


def _frames_of(stream: Any, packet: av.Packet | None, counts: DecodingCounts) -> list[Any]:
    counts.tried += packet is not None
    try:
        return stream.codec_context.decode(packet)
    except av.FFmpegError as error:
        counts.failures.append(error.strerror)
        return []
