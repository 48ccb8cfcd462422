"""Callers that ask for more than there is, and a front that hangs or dies: who still gets an answer, and how soon."""

import contextlib
import signal
import socket
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
import numpy as np

from serving_load.client import Answers, Load, Traffic, run
from serving_load.observing import FAILED, Watch
from serving_load.service import Service, progress

CROWD, CROWD_S = 1_000, 20.0
RIVALS, RIVALS_S = 200, 30.0
ANSWER_S = 5.0  # within which each request of a crowd is to be answered, and full speed is to be back
IDLE, IDLE_S, LOCKED_OUT_S = 4_096, 25.0, 10.0
FROZEN_S = 15.0
BACK_S = 10.0
FULL_SPEED = 0.9  # of the speed before


def crowd(service: Service, watch: Watch) -> dict[str, Any]:
    """Many connections that send again at once, and then the speed at which the service answers a usual load."""
    few = Traffic(service.port, 16, 6.0, watch.size.users, watch.size.videos)
    speed = run(few).per_second()
    many = run(replace(few, connections=CROWD, seconds=CROWD_S, impatient=True))
    after = run(replace(few, seconds=ANSWER_S + 5))
    start = float(after.at.min(initial=np.inf))
    speeds = [after.between(start + second, start + second + 1).per_second() for second in range(int(ANSWER_S) + 1)]
    back = next((second for second, each in enumerate(speeds) if each >= FULL_SPEED * speed), None)
    longest = float(many.took.max(initial=0.0))
    note = f"{speed:.0f} requests/s before, {many.per_second():.0f} with the crowd; longest answer {longest:.1f} s; " + (
        f"full speed after {back} s" if back is not None else f"afterwards {[round(each) for each in speeds]} requests/s"
    )
    return _row(f"{CROWD:,} impatient connections", many, note, longest <= ANSWER_S + 0.5 and back is not None)


def fair_share(service: Service, watch: Watch) -> dict[str, Any]:
    """One connection that comes back when it is told to, beside many that do not wait."""
    rivals = Traffic(service.port, RIVALS, RIVALS_S + 5, watch.size.users, watch.size.videos, impatient=True)
    with Load(rivals) as load:
        time.sleep(2)
        good = run(replace(rivals, connections=1, seconds=RIVALS_S, impatient=False))
        others = load.stop()
    fair = (others.per_second() + good.per_second()) / (RIVALS + 1)
    note = f"a caller that backs off gets {good.per_second():.2f} requests/s, its fair share being {fair:.2f}"
    return _row(f"one caller beside {RIVALS} impatient ones", good, note, good.per_second() >= fair / 2)


def idle_connections(service: Service) -> dict[str, Any]:
    """Connections that are opened and send nothing, or one request and nothing more, again as soon as they are closed."""
    held: list[socket.socket] = []
    gaps, last, statuses = [0.0], time.monotonic(), Counter[int]()
    end = time.monotonic() + IDLE_S
    try:
        while (now := time.monotonic()) < end:
            held = [each for each in held if _is_open(each)]
            for number in range(min(IDLE - len(held), 512)):
                with contextlib.suppress(OSError):
                    each = socket.create_connection(("127.0.0.1", service.port), timeout=0.2)
                    held.append(each)
                    if number % 2:
                        each.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(httpx.HTTPError):
                status = httpx.get(f"{service.url}/healthz", timeout=2).status_code
                statuses[status] += 1
                if status == 200:
                    gaps.append(time.monotonic() - last)
                    last = time.monotonic()
            time.sleep(0.1)
        gaps.append(now - last)
    finally:
        for each in held:
            each.close()
    note = f"{len(held):,} held at the end; the longest time that another caller was locked out {max(gaps):.1f} s"
    row = {"part": f"{IDLE:,} idle connections", "requests": statuses.total(), "2xx": statuses[200], "503": statuses[503]}
    return row | _kept(note, max(gaps) <= LOCKED_OUT_S)


def frozen_recall(service: Service) -> dict[str, Any]:
    """The only ingress lives but does nothing, as one that waits for a disk."""
    (replica,) = service.replicas("TopicRecall")
    took, statuses = [], Counter[int]()
    replica.suspend()
    try:
        end = time.monotonic() + FROZEN_S
        while time.monotonic() < end:
            started = time.monotonic()
            statuses[httpx.get(f"{service.url}/v1/users/u1", timeout=60).status_code] += 1
            took.append(time.monotonic() - started)
            time.sleep(0.2)
    finally:
        replica.resume()
    back = _seconds_until_answer(service)
    limit = service.config.serving.timeout_s
    note = f"longest wait for a 503 {max(took):.1f} s (serving.timeout_s {limit:g}); back {back:.1f} s after it went on"
    row = {"part": "the only TopicRecall frozen", "requests": len(took), "2xx": statuses[200], "503": statuses[503]}
    return row | _kept(note, max(took) <= limit + 0.5 and set(statuses) <= {200, 503} and back <= BACK_S)


def proxy_killed(service: Service) -> dict[str, Any]:
    """HAProxy is killed; Serve starts another one."""
    haproxies = [each for each in service.processes() if each.name() == "haproxy"]
    for each in haproxies:
        each.send_signal(signal.SIGKILL)
    progress(f"{len(haproxies)} HAProxy killed")
    statuses, started = Counter[str](), time.monotonic()
    while time.monotonic() - started < 60:
        try:
            status = str(httpx.get(f"{service.url}/v1/users/u1", timeout=10).status_code)
        except httpx.HTTPError:
            status = "no connection"
        statuses[status] += 1
        if status == "200":
            break
        time.sleep(0.1)
    took = time.monotonic() - started
    row = {"part": "HAProxy killed", "requests": statuses.total(), "2xx": statuses["200"], "503": statuses["503"]}
    note = f"back after {took:.1f} s; until then {dict(statuses)}"
    return row | _kept(note, took <= BACK_S and set(statuses) <= {"200", "503", "no connection"})


def _row(part: str, answers: Answers, note: str, kept: bool) -> dict[str, Any]:
    errors = answers.errors()
    return {
        "part": part,
        "requests": len(answers.at),
        "2xx": int(answers.good.sum()),
        "503": errors.pop("503", 0),
        "closed": errors.pop("closed", 0),
        "p99 ms": answers.milliseconds(99),
        "longest gap s": answers.longest_gap(),
    } | _kept(note, kept, str(errors or 0))


def _kept(note: str, kept: bool, other: str = "0") -> dict[str, Any]:
    return {"other": other, "client failed": 0, "lost": 0, "note": note if kept else f"{FAILED}: {note}"}


def _seconds_until_answer(service: Service) -> float:
    started = time.monotonic()
    while time.monotonic() - started < 60:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{service.url}/v1/users/u1", timeout=5).is_success:
                break
        time.sleep(0.1)
    return time.monotonic() - started


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side has left a connection open; reads away what it has sent."""
    connection.setblocking(False)
    with contextlib.suppress(ConnectionError):
        try:
            while connection.recv(4096):
                continue
        except BlockingIOError:
            return True
    connection.close()
    return False
