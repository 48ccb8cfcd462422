"""An HTTP client. Each connection sends its next request when the last one has been answered (a closed loop).

With a `rate`, requests are due at that rate, whatever the answers take, and the time of one counts from when it was due. The client
runs as a process of its own (`Load` starts and ends it) and is nothing but sockets and one selector: some 15 us of CPU a request
against a server that does nothing, so that it hardly takes from a service that shares its cores. Every answer is recorded; with
`retry`, a 503 and a connection that was closed are followed by the same request once more, as `rayrec.client` does it.
"""

import contextlib
import io
import json
import math
import random
import re
import selectors
import socket
import subprocess
import sys
import time
from array import array
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

CLOSED, HUNG, UNDOCUMENTED_503 = 0, -1, -503  # stand where an HTTP status would
ANSWER_TIMEOUT_S = 30.0
CLOSED_PAUSE_S = 0.1
EVENTS_EVERY = 4  # with `events`, each fourth request brings a batch of them


@dataclass(frozen=True)
class Traffic:
    port: int
    connections: int
    seconds: float  # at the most
    users: int
    videos: int
    k: int = 10
    events: int = 0  # in a batch
    pause_s: float = 0.0  # of a connection between an answer and the next request
    apart: bool = False  # a millisecond between headers and body: many clients (httpx) write twice, and may rest between
    retry: bool = False
    impatient: bool = False  # the next request follows at once, whatever Retry-After says
    seed: int = 0
    path: str = "recommend"  # below /v1/
    bodies: tuple[str, ...] = ()  # JSON, of which each request has one at random; without any, those of `path` recommend
    rate: float = 0.0  # requests a second of all connections; 0 for a closed loop


@dataclass(frozen=True)
class Answers:
    """All answers in the order of their arrival."""

    at: np.ndarray  # float64, seconds of the monotonic clock
    took: np.ndarray  # float32, seconds
    status: np.ndarray  # int16
    acknowledged: np.ndarray  # int64: numbers of the events that were answered with 200; `event_id` makes their ids
    elapsed: float  # seconds
    cpu: float  # seconds, of the client

    @property
    def good(self) -> np.ndarray:
        return self.status // 100 == 2

    def per_second(self) -> float:
        return float(self.good.sum() / self.elapsed)

    def milliseconds(self, percentile: float) -> float:
        good = self.took[self.good]
        return float(np.percentile(good, percentile) * 1000) if len(good) else float("nan")

    def between(self, start: float, end: float) -> "Answers":
        """Those of a part of the time, seconds of the monotonic clock."""
        rows = (self.at >= start) & (self.at < end)
        return Answers(self.at[rows], self.took[rows], self.status[rows], self.acknowledged[:0], end - start, 0.0)

    def errors(self) -> dict[str, int]:
        """What was not 2xx, by what it was, and how often."""
        names = {CLOSED: "closed", HUNG: "no answer", UNDOCUMENTED_503: "503 without Retry-After"}
        counts = Counter(self.status[~self.good].tolist())
        return {names.get(status, str(status)): count for status, count in sorted(counts.items())}

    def longest_gap(self) -> float:
        """The longest time without any 2xx, seconds."""
        return float(np.diff(self.at[self.good]).max(initial=0.0))


def event_id(seed: int, number: int) -> str:
    return f"load{seed}-{number}"


class Load:
    """A client at work. Ends with its `with`, when its seconds are over, or with this process."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(traffic))], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> Answers:
        said, _ = self.process.communicate(timeout=60)  # closes its stdin, which stops it
        if self.process.returncode:
            raise RuntimeError(f"the client failed with status {self.process.returncode}")
        with np.load(io.BytesIO(said)) as found:
            arrays = dict(found)
        return Answers(**arrays | {name: float(arrays[name]) for name in ("elapsed", "cpu")})


def run(traffic: Traffic) -> Answers:
    """All of it."""
    with Load(traffic) as load:
        time.sleep(traffic.seconds)
        return load.stop()


class Connection:
    """One connection with its request under way; `due` is when to send the next one, while none is."""

    def __init__(self, number: int, traffic: Traffic) -> None:
        self.traffic, self.random = traffic, random.Random(f"{traffic.seed} {number}")
        self.number, self.count = number, 0
        self.sock: socket.socket | None = None
        self.request, self.events = [b""], range(0)  # the request in the pieces in which it is sent
        self.received, self.sent, self.due = b"", 0.0, 0.0

    def next_request(self) -> None:
        traffic, self.count = self.traffic, self.count + 1
        user = f"u{self.random.randrange(traffic.users)}"
        if traffic.events and self.count % EVENTS_EVERY == 0:
            first = (self.number << 40) + self.count * 1000
            self.events = range(first, first + traffic.events)
            batch = [
                {
                    "event_id": event_id(traffic.seed, number),
                    "user_id": user,
                    "video_id": f"v{self.random.randrange(traffic.videos)}",
                    "kind": "click",
                }
                for number in self.events
            ]
            path, body = "events", json.dumps({"events": batch})
        else:
            body = self.random.choice(traffic.bodies) if traffic.bodies else f'{{"user_id":"{user}","k":{traffic.k}}}'
            path, self.events = traffic.path, range(0)
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1:{traffic.port}\r\nContent-Type: application/json\r\n"
        pieces = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body.encode()]
        self.request = pieces if traffic.apart else [b"".join(pieces)]

    def send(self, selector: selectors.BaseSelector) -> bool:
        """Send the request; says whether it could be sent."""
        self.received, self.sent = b"", self.due if self.traffic.rate else time.monotonic()
        try:
            if self.sock is None:
                self.sock = socket.create_connection(("127.0.0.1", self.traffic.port), timeout=5)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(self.sock, selectors.EVENT_READ, self)
            for number, piece in enumerate(self.request):
                if number:
                    time.sleep(0.001)
                self.sock.sendall(piece)
        except OSError:
            self.close(selector)
            return False
        return True

    def receive(self) -> tuple[int, float | None, bool] | None:
        """(status, Retry-After, whether the connection stays) once the answer is whole; None before."""
        assert self.sock
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return CLOSED, None, False
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        head = head.lower()
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head):
            if len(body) < int(length[1]):
                return None
        elif not body.endswith(b"0\r\n\r\n"):  # in chunks
            return None
        after = re.search(rb"\r\nretry-after: *(\d+)", head)
        return int(head[9:12]), float(after[1]) if after else None, b"\r\nconnection: close" not in head

    def close(self, selector: selectors.BaseSelector) -> None:
        if self.sock is not None:
            with contextlib.suppress(KeyError):
                selector.unregister(self.sock)
            self.sock.close()
            self.sock = None


class Record:
    def __init__(self) -> None:
        self.at, self.took, self.status, self.acknowledged = array("d"), array("f"), array("h"), array("q")

    def add(self, connection: Connection, status: int, now: float) -> None:
        self.at.append(now)
        self.took.append(now - connection.sent)
        self.status.append(status)
        if status == 200:
            self.acknowledged.extend(connection.events)

    def arrays(self) -> dict[str, np.ndarray]:
        kinds = {"at": np.float64, "took": np.float32, "status": np.int16, "acknowledged": np.int64}
        return {name: np.array(getattr(self, name), kind) for name, kind in kinds.items()}


def drive(traffic: Traffic, stop: int) -> dict[str, np.ndarray]:
    """Load the service until the time is over or the file descriptor `stop` can be read."""
    record, selector = Record(), selectors.DefaultSelector()
    selector.register(stop, selectors.EVENT_READ, None)
    connections = [Connection(number, traffic) for number in range(traffic.connections)]
    waiting = dict.fromkeys(connections, True)  # -> whether it is to make a new request
    started, cpu = time.monotonic(), time.process_time()
    checked, end = started, started + traffic.seconds
    for connection in connections:
        connection.due = started + connection.number / traffic.rate if traffic.rate else 0.0

    def answered(connection: Connection, status: int, retry_after: float | None, now: float) -> None:
        documented = status == 503 and retry_after is not None
        record.add(connection, UNDOCUMENTED_503 if status == 503 and not documented else status, now)
        again = traffic.retry and (documented or status in (CLOSED, UNDOCUMENTED_503))
        pause = traffic.pause_s
        if (status <= 0 or status == 503) and not (traffic.impatient and documented):
            pause = (retry_after or CLOSED_PAUSE_S) * connection.random.uniform(0.5, 1.5)
        connection.due = connection.due + traffic.connections / traffic.rate if traffic.rate else now + pause
        waiting[connection] = not again

    while (now := time.monotonic()) < end:
        for connection, new in [(each, new) for each, new in waiting.items() if each.due <= now]:
            del waiting[connection]
            if new:
                connection.next_request()
            if not connection.send(selector):
                answered(connection, CLOSED, None, time.monotonic())
        next_due = min((each.due for each in waiting), default=math.inf)
        for key, _ in selector.select(min(0.5, max(0.0, next_due - time.monotonic()))):
            if (connection := key.data) is None:
                end = 0.0
            elif answer := connection.receive():
                status, retry_after, stays = answer
                if not stays:
                    connection.close(selector)
                answered(connection, status, retry_after, time.monotonic())
        if now - checked > 1:
            checked = now
            for connection in connections:
                if connection not in waiting and now - connection.sent > ANSWER_TIMEOUT_S:
                    connection.close(selector)
                    answered(connection, HUNG, None, now)
    facts = {"elapsed": time.monotonic() - started, "cpu": time.process_time() - cpu}
    return record.arrays() | {name: np.array(value) for name, value in facts.items()}


def main() -> None:
    arrays = drive(Traffic(**json.loads(sys.argv[1])), sys.stdin.fileno())
    said = io.BytesIO()
    np.savez(said, allow_pickle=False, **arrays)
    sys.stdout.buffer.write(said.getvalue())


if __name__ == "__main__":
    main()
