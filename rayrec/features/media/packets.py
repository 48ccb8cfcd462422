"""Reads the compressed packets of a media file, and tells how long what is played lasts, and whether the file is whole."""

from dataclasses import dataclass
from typing import Any

import av
from av.container import InputContainer

TOLERATED_LOSS = 0.05  # the share of a stream that may be missing before the file counts as damaged
# Containers that state where they end, by which a truncated file differs from a short one. Those of the mp4 family state it for
# each stream; Matroska states the end of its longest stream, which may be one that is not played.
STATES_STREAMS, STATES_END = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
PADDING_S = 0.1  # at most; what encoders of sound add to fill the last packet
NO_TIMES = ("avi",)  # containers that keep the order of packets, but not the times at which they are shown

Packets = list[av.Packet]


@dataclass(frozen=True)
class Contents:
    """The packets of the streams that can be decoded, by the index of the stream."""

    packets: dict[int, Packets]
    end: float  # of the last packet of any stream, in seconds
    fault: str | None  # why reading stopped early


def read_packets(container: InputContainer, streams: list[Any]) -> Contents:
    """Read the whole file, and keep the packets of these streams."""
    packets: dict[int, Packets] = {stream.index: [] for stream in streams}
    end, fault = 0.0, None
    try:
        for packet in container.demux():
            if packet.size:
                end = max(end, _end(packet))
                if packet.stream.index in packets:
                    packets[packet.stream.index].append(packet)
    except (av.FFmpegError, OSError) as error:
        fault = f"damaged: reading stopped after {end:.1f} s ({error.strerror})"
    return Contents(packets, end, fault)


def played_span(container: InputContainer, streams: list[Any], contents: Contents) -> tuple[float, str | None]:
    """How many seconds these streams last, and a fault when the file ends before they do.

    The times of the packets decide, because a container may start at any time, and may state the end of a stream that is not
    played. A truncated file keeps its stated length. An end that the container states is used where the packets agree with it,
    because the last packet may be padded.
    """
    timed = [packet for stream in streams for packet in contents.packets[stream.index] if packet.pts is not None]
    shown = [packet for packet in timed if not packet.is_discard]
    if not shown or container.format.name in NO_TIMES:
        return (container.duration or 0) / av.time_base, contents.fault
    first, last = min(float(packet.pts * packet.time_base) for packet in shown), max(map(_end, shown))
    starts = [float(stream.start_time * stream.time_base) for stream in streams if stream.start_time is not None]
    start = min(starts, default=first)
    if container.format.name == STATES_STREAMS:
        start = max(start, 0.0)
        stated, reached = max(map(_stated_end, streams)), last
    elif container.format.name == STATES_END:
        stated, reached = (container.duration or 0) / av.time_base, contents.end
    else:
        return last - start, contents.fault
    tolerance = max(0.5, TOLERATED_LOSS * (stated - start))
    if stated - reached > tolerance:
        return stated - start, contents.fault or f"truncated: only {last - start:.1f} of {stated - start:.1f} s are in the file"
    # The end of an mp4's streams is exact. Matroska's may be that of a stream that is not played, unless the packets reach further.
    latest = last + (tolerance if container.format.name == STATES_STREAMS else 0)
    return (stated if last - PADDING_S <= stated <= latest else last) - start, contents.fault


def _stated_end(stream: Any) -> float:
    return float(((stream.start_time or 0) + (stream.duration or 0)) * stream.time_base)


def _end(packet: av.Packet) -> float:
    """The time at which a packet ends, in seconds. One that states no duration lasts as long as a frame at the stream's rate."""
    if packet.pts is None:
        return 0.0
    return float(packet.pts * packet.time_base) + packet_duration(packet)


def packet_duration(packet: av.Packet) -> float:
    """In seconds; 0 where neither the packet nor its stream tells."""
    if packet.duration:
        return float(packet.duration * packet.time_base)
    rate = getattr(packet.stream, "average_rate", None)  # of a picture
    return float(1 / rate) if rate else 0.0
