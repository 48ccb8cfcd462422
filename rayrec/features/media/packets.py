"""Reads the compressed packets of a media file, and decodes only the frames that are wanted.

Most frames of a video are compressed as differences to others. To get a frame, one decodes from the keyframe before it. Frames in
between that no other frame refers to (the B-frames, half of a usual file) are skipped. The result is bit for bit the same as when
everything is decoded.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

TOLERATED_LOSS = 0.05  # the share of a stream that may be undecodable before the file counts as damaged
# Containers that state their duration, by which a truncated file differs from a short one.
STATES_ITS_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
NO_TIMES = ("avi",)  # containers that keep the order of packets, but not the times at which they are shown

Packets = list[av.Packet]


@dataclass
class DecodingCounts:
    """How many packets were decoded, and why some could not be."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def faults(self, part: str, yielded: bool) -> tuple[str, ...]:
        """A sentence about a part of the file (`picture` or `sound`), or none where it was decoded well enough."""
        if yielded and len(self.failures) <= TOLERATED_LOSS * self.tried:
            return ()
        what = f"{len(self.failures)} of {self.tried} packets could" if yielded else "nothing could"
        return (f"{part}: {what} not be decoded" + (f" ({self.failures[0]})" if self.failures else ""),)


def read_packets(container: InputContainer, streams: list[Any]) -> tuple[dict[int, Packets], str | None]:
    """The packets of each stream, by its index, and a fault when the file ends too early."""
    packets: dict[int, Packets] = {stream.index: [] for stream in streams}
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


def duration(container: InputContainer, packets: dict[int, Packets]) -> float:
    """The duration in seconds: the stated one, which a truncated file keeps, or else the span of the packets."""
    if container.duration:
        return container.duration / av.time_base
    return _end(packets) - min((float(packet.pts * packet.time_base) for packet in _timed(packets)), default=0.0)


def _end(packets: dict[int, Packets]) -> float:
    """The end of the last packet, in seconds."""
    return max((float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in _timed(packets)), default=0.0)


def _timed(packets: dict[int, Packets]) -> Packets:
    return [packet for stream in packets.values() for packet in stream if packet.pts is not None]


def decoded(stream: Any, packets: Packets, counts: DecodingCounts) -> Iterator[Any]:
    """All frames of a stream, in the order of display."""
    stream.codec_context.flush_buffers()  # removes what an earlier run left
    for packet in [*packets, None]:
        yield from _frames_of(stream, packet, counts)


def frame_count(packets: Packets) -> int:
    return max(1, sum(not packet.is_discard for packet in packets))


def frames_at(
    stream: VideoStream, packets: Packets, positions: set[int], counts: DecodingCounts
) -> Iterator[tuple[int, VideoFrame]]:
    """The frames at these positions (0 is the first one shown), each with its position, in the order of display.

    Positions count the packets by their times. In a file without times, or without one for every packet, they count the decoded
    frames, and everything is decoded. The same is done when a frame can't be decoded from its keyframe, because some files mark
    false keyframes.
    """
    shown = sorted((packet.pts, index) for index, packet in enumerate(packets) if packet.pts is not None and not packet.is_discard)
    times = [time for time, _ in shown]
    timed = len(shown) == frame_count(packets) == len(set(times)) and stream.container.format.name not in NO_TIMES
    if not timed:
        yield from ((position, frame) for position, frame in enumerate(decoded(stream, packets, counts)) if position in positions)
        return
    position_at = {times[position]: position for position in positions if position < len(times)}
    wanted = {shown[position][1] for position in position_at.values()}
    for run in _runs(packets, wanted):
        for frame in _decoded_run(stream, packets, run, wanted, counts):
            if frame.pts in position_at:
                yield position_at.pop(frame.pts), frame
    if position_at:
        for frame in decoded(stream, packets, counts):
            if frame.pts in position_at:
                yield position_at.pop(frame.pts), frame


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
