"""The compressed packets of a media file, and the frames in them: only those that are wanted are decoded.

Most of a video is compressed as differences. A frame can be had by decoding from the keyframe before it; of what lies between, the
frames that no other one refers to (the B-frames, half of a usual file) are left out. What comes out is bit for bit what decoding
everything gives.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

TOLERATED_LOSS = 0.05  # share of a stream that may be undecodable before the file counts as damaged
# Containers that state their length, so that a truncated file can be told from a short one.
STATES_ITS_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
NO_TIMES = ("avi",)  # containers that keep the order of packets but not when each is shown

Packets = list[av.Packet]


@dataclass
class Tally:
    """How decoding went: packets tried, and why some could not be decoded."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def faults(self, part: str, yielded: bool) -> tuple[str, ...]:
        """A sentence, or none, on the part of the file (`picture` or `sound`) that was decoded."""
        if yielded and len(self.failures) <= TOLERATED_LOSS * self.tried:
            return ()
        what = f"{len(self.failures)} of {self.tried} packets could" if yielded else "nothing could"
        return (f"{part}: {what} not be decoded" + (f" ({self.failures[0]})" if self.failures else ""),)


def read_packets(container: InputContainer, streams: list[Any]) -> tuple[dict[int, Packets], str | None]:
    """The packets of each stream by its index, and a fault when the file ends before it should."""
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
    """In seconds; the stated one, which a truncated file keeps, or else what the packets span."""
    if container.duration:
        return container.duration / av.time_base
    return _end(packets) - min((float(packet.pts * packet.time_base) for packet in _timed(packets)), default=0.0)


def _end(packets: dict[int, Packets]) -> float:
    """When the last packet ends, in seconds."""
    return max((float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in _timed(packets)), default=0.0)


def _timed(packets: dict[int, Packets]) -> Packets:
    return [packet for stream in packets.values() for packet in stream if packet.pts is not None]


def decoded(stream: Any, packets: Packets, tally: Tally) -> Iterator[Any]:
    """All frames of a stream, in the order of display."""
    stream.codec_context.flush_buffers()  # of what an earlier run left behind
    for packet in [*packets, None]:
        yield from _frames_of(stream, packet, tally)


def frame_count(packets: Packets) -> int:
    return max(1, sum(not packet.is_discard for packet in packets))


def frames_at(stream: VideoStream, packets: Packets, positions: set[int], tally: Tally) -> Iterator[tuple[int, VideoFrame]]:
    """The frames at these positions (0 is the first one shown), each with its position, in the order of display.

    Positions count the packets by their times; in a file that has none, or not one for each packet, they count the frames that
    come out, and all are decoded. So they are when a frame can't be had from its keyframe: some files name false ones.
    """
    shown = sorted((packet.pts, index) for index, packet in enumerate(packets) if packet.pts is not None and not packet.is_discard)
    times = [time for time, _ in shown]
    timed = len(shown) == frame_count(packets) == len(set(times)) and stream.container.format.name not in NO_TIMES
    if not timed:
        yield from ((place, frame) for place, frame in enumerate(decoded(stream, packets, tally)) if place in positions)
        return
    position_at = {times[position]: position for position in positions if position < len(times)}
    wanted = {shown[position][1] for position in position_at.values()}
    for run in _runs(packets, wanted):
        for frame in _decoded_run(stream, packets, run, wanted, tally):
            if frame.pts in position_at:
                yield position_at.pop(frame.pts), frame
    if position_at:
        for frame in decoded(stream, packets, tally):
            if frame.pts in position_at:
                yield position_at.pop(frame.pts), frame


def _runs(packets: Packets, wanted: set[int]) -> list[range]:
    """The stretches of packets that must be decoded for the wanted ones; each begins with a keyframe.

    A packet that follows a keyframe but is shown before it (in an open group of pictures) may need the group before as well.
    """
    keys = [index for index, packet in enumerate(packets) if packet.is_keyframe and packet.pts is not None]
    runs: list[range] = []
    for index in sorted(wanted):
        place = bisect_right(keys, index) - 1
        while place >= 0 and packets[keys[place]].pts > packets[index].pts:
            place -= 1
        start = keys[place] if place >= 0 else 0
        while runs and start <= runs[-1].stop:
            start = min(start, runs.pop().start)
        runs.append(range(start, index + 1))
    return runs


def _decoded_run(stream: VideoStream, packets: Packets, run: range, wanted: set[int], tally: Tally) -> Iterator[VideoFrame]:
    codec = stream.codec_context
    codec.flush_buffers()
    try:
        for index in run:
            codec.skip_frame = "DEFAULT" if index in wanted else "NONREF"
            yield from _frames_of(stream, packets[index], tally)
        yield from _frames_of(stream, None, tally)
    finally:
        codec.skip_frame = "DEFAULT"


def _frames_of(stream: Any, packet: av.Packet | None, tally: Tally) -> list[Any]:
    tally.tried += packet is not None
    try:
        return stream.codec_context.decode(packet)
    except av.FFmpegError as error:
        tally.failures.append(error.strerror)
        return []
