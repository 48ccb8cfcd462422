"""HAProxy as `haproxy.sh` starts it, with the configuration that Ray writes for it, in front of two test servers."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from rayrec.serving.cluster import haproxy, head
from tests.serving.sockets import listening

SERVER_TIMEOUT_S = 3
BUSY = b'{"error":"no replica can answer now; try again in a second"}'
REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


class Server:
    """Answers every request with 200 and its name; when `dying`, it closes the connection without an answer.

    While `open` is not set, it holds its answers to all but health checks.
    """

    def __init__(self, name: bytes, host: str = "127.0.0.1", port: int = 0) -> None:
        self.name, self.dying, self.seen = name, False, 0
        self.keys: list[bytes] = []  # of the requests in the order of their arrival
        self.open = threading.Event()
        self.open.set()
        self.head = b"200 OK"
        self.listener = socket.create_server((host, port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        """Like the death of a process: what it holds gets no answer, and then nobody listens."""
        self.dying = True
        self.listener.shutdown(socket.SHUT_RDWR)  # `close` alone would not wake the thread that accepts
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._answer, args=(self.listener.accept()[0],), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while received := connection.recv(65536):
                if received.startswith(b"GET /-/healthz"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.seen += 1
                self.keys.append(received.partition(b"Bearer ")[2].partition(b"\r")[0])
                if self.dying:
                    return
                self.open.wait()
                while b"Content-Length" in received and not received.endswith(b"body") and (more := connection.recv(65536)):
                    received += more
                connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (self.head, len(self.name), self.name))


@dataclass
class Proxy:
    port: int
    servers: tuple[Server, Server]
    process: subprocess.Popen

    @contextlib.contextmanager
    def connection(self) -> Iterator[Callable[..., tuple[int, http.client.HTTPMessage, bytes]]]:
        """A function that sends a request over one connection, the body `pause_s` after the rest, and gives the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:

            def ask(body: bytes = b"body", pause_s: float = 0.0) -> tuple[int, http.client.HTTPMessage, bytes]:
                connection.sendall(REQUEST)
                time.sleep(pause_s)
                connection.sendall(body)
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                return answer.status, answer.headers, answer.read()

            yield ask


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Proxy]]:
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, HTTPOptions, ServerConfig

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(head.HAPROXY))
    reserved = [reserved_port() for _ in range(3)]
    port, stats, metrics = (each.getsockname()[1] for each in reserved)
    settings = head.HAPROXY_SETTINGS
    servers = Server(b"first"), Server(b"second")
    started: list[subprocess.Popen] = []

    def start(host: str = "127.0.0.1", listen: str = "", replicas: int = 2, apps: int = 1) -> Proxy:
        if listen:
            (tmp_path / "listen").write_text(listen)
            monkeypatch.setenv("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", f"{tmp_path}/haproxy.cfg")
        config = HAProxyConfig(
            http_options=HTTPOptions(host=host, port=port),
            stats_port=stats,
            metrics_port=metrics,
            socket_path=f"{tmp_path}/a.sock",
            metrics_socket_path=f"{tmp_path}/m.sock",
            server_state_base=str(tmp_path),
            server_state_file=f"{tmp_path}/state",
            retry_on=settings["RAY_SERVE_HAPROXY_RETRY_ON"],
            retries=int(settings["RAY_SERVE_HAPROXY_RETRIES"]),
            bufsize=int(settings["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]),
            nbthread=2,
            timeout_server_s=SERVER_TIMEOUT_S,
            has_received_routes=True,
            has_received_servers=True,
        )
        *first, last = (ServerConfig(name=server.name.decode(), host="127.0.0.1", port=server.port) for server in servers)
        backend = BackendConfig(
            name="app",
            path_prefix="/",
            app_name="app",
            servers=[*first, last][:replicas],
            fallback_server=replace(last, name="stand-in"),
        )
        api = HAProxyApi(config, {"app": backend} if apps else {}, config_file_path=f"{tmp_path}/haproxy.cfg")
        api._generate_config_file_internal()
        (tmp_path / "state").touch()
        with open(tmp_path / "stderr", "w") as stderr:
            process = subprocess.Popen([head.HAPROXY, "-db", "-f", api.config_file_path], stderr=stderr)
        started.append(process)
        deadline = time.monotonic() + 30
        while not {port, stats, metrics} <= {each for _, each in listening([psutil.Process(process.pid)])}:
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline, (tmp_path / "stderr").read_text()
            time.sleep(0.05)
        return Proxy(port, servers, process)

    yield start
    for server in servers:
        server.open.set()
    for process in started:
        process.kill()
        process.wait()
    for each in [server.listener for server in servers] + reserved:
        each.close()


def reserved_port() -> socket.socket:
    """A socket whose port only a process can use that, like HAProxy, asks to share it. Any process may take one that is free."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("", 0))
    return found


@pytest.mark.parametrize("pause_s", [0, 0.2])
def test_a_request_whose_replica_dies_is_answered_by_another(proxy: Callable[..., Proxy], pause_s: float) -> None:
    running = proxy()
    with running.connection() as ask:
        first = ask(pause_s=pause_s)[2]
        dying, other = sorted(running.servers, key=lambda server: server.name != first)
        dying.kill()
        assert {ask(pause_s=pause_s)[2] for _ in range(4)} == {other.name}


@pytest.mark.parametrize("head", ["", "500 Internal Server Error\r\nContent-Type: text/plain", "503 Service Unavailable"])
def test_an_error_that_is_not_the_services_is_a_503_to_be_tried_again(proxy: Callable[..., Proxy], head: str) -> None:
    running = proxy()
    with running.connection() as ask:
        assert ask()[0] == 200
        for server in running.servers:
            server.dying, server.head = not head, head.encode()
        status, headers, body = ask()
    assert (status, headers["Retry-After"], headers["Content-Type"]) == (503, "1", "application/json")
    assert body == BUSY


def test_an_error_of_the_services_own_stays(proxy: Callable[..., Proxy]) -> None:
    running = proxy(replicas=1)
    running.servers[0].head = b"500 Internal Server Error\r\nContent-Type: application/json"
    with running.connection() as ask:
        status, _, body = ask()
    assert (status, body) == (500, b"first")


def test_a_request_that_does_not_arrive_is_refused(proxy: Callable[..., Proxy]) -> None:
    running = proxy(replicas=1)
    with running.connection() as ask:
        status, headers, body = ask(b"bo")
    assert (status, headers["Content-Type"]) == (408, "application/json")
    assert body == b'{"error":"the request did not arrive within 5 s"}'
    assert running.servers[0].seen == 0


def test_a_request_never_reaches_another_services_replica(proxy: Callable[..., Proxy]) -> None:
    ours = "127.77.0.9"
    running = proxy(host=ours, listen="127.0.0.1", replicas=1)
    strangers = running.servers  # at the very ports of our replicas, but on 127.0.0.1
    replica = Server(b"ours", ours, strangers[0].port)
    with running.connection() as ask:
        deadline = time.monotonic() + 20
        while (found := ask())[0] == 503 and time.monotonic() < deadline:  # until the next health check
            time.sleep(0.1)
        assert found[2] == b"ours"
    replica.kill()
    for _ in range(5):
        with contextlib.suppress(http.client.RemoteDisconnected), running.connection() as ask:
            assert ask()[0] == 503
    assert [stranger.seen for stranger in strangers] == [0, 0]


@pytest.mark.parametrize(("listen", "shown"), [("127.0.0.1",) * 2, ("0.0.0.0",) * 2, ("[::1]", "::1"), ("[::]", "::")])
def test_it_listens_at_the_services_address_and_not_at_the_replicas(proxy: Callable[..., Proxy], listen: str, shown: str) -> None:
    running = proxy("127.77.0.9", listen)
    places = listening([psutil.Process(running.process.pid)])
    assert {ip for ip, port in places if port == running.port} == {shown}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_service_alone_listens_elsewhere_than_on_the_loopback(proxy: Callable[..., Proxy], host: str) -> None:
    running = proxy(host)
    places = listening([psutil.Process(running.process.pid)])
    assert len(places) == 3
    assert {ip for ip, port in places if port == running.port} == {host}
    assert {ip for ip, port in places if port != running.port} == {"127.0.0.1"}


@pytest.mark.parametrize("pause_s", [0, 0.05])
def test_when_the_only_replica_dies_the_proxy_that_stands_in_gets_few_requests_at_once(
    proxy: Callable[..., Proxy], pause_s: float
) -> None:
    running = proxy(replicas=1)
    replica, stand_in = running.servers
    with running.connection() as ask:
        assert ask(pause_s=pause_s)[2] == replica.name
        replica.kill()
        assert ask(pause_s=pause_s)[2] == stand_in.name
    stand_in.open.clear()
    before = stand_in.seen
    with waiting(running.port, 2 * haproxy.MAX_AT_STAND_IN, REQUEST + b"body") as connections:
        until(lambda: stand_in.seen - before == haproxy.MAX_AT_STAND_IN)
        time.sleep(0.3)
        assert stand_in.seen - before == haproxy.MAX_AT_STAND_IN
        stand_in.open.set()
        assert {status_of(each) for each in connections} == {200}


def test_while_no_application_runs_callers_are_told_to_come_back(proxy: Callable[..., Proxy]) -> None:
    running = proxy(apps=0)
    with running.connection() as ask:
        status, headers, body = ask()
    assert (status, headers["Retry-After"], headers["Content-Type"], body) == (503, "1", "application/json", BUSY)


@pytest.mark.parametrize("apps", [0, 1])
@pytest.mark.parametrize("target", ["*", "relative"])
def test_a_path_that_no_application_can_have_is_refused(proxy: Callable[..., Proxy], apps: int, target: str) -> None:
    running = proxy(apps=apps)
    with waiting(running.port, 1, f"OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as (connection,):
        assert status_of(connection) == 400
    assert [server.seen for server in running.servers] == [0, 0]


def test_a_replica_that_hangs_costs_no_more_than_the_time_of_a_request(proxy: Callable[..., Proxy]) -> None:
    running = proxy(replicas=1)
    running.servers[0].open.clear()
    started = time.monotonic()
    with running.connection() as ask:
        status, headers, body = ask()
    assert (status, headers["Retry-After"], body) == (503, "1", BUSY)
    assert SERVER_TIMEOUT_S - 0.5 < time.monotonic() - started < SERVER_TIMEOUT_S + 1.5


@contextlib.contextmanager
def waiting(port: int, count: int, head: bytes) -> Iterator[list[socket.socket]]:
    """Connections, each of which has sent a request and has not read the answer."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(count)]
        for each in found:
            each.sendall(head)
        yield found


def status_of(connection: socket.socket) -> int:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def with_key(key: str) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: 4\r\n\r\nbody".encode()


def test_a_replica_gets_a_bounded_number_of_requests_at_once(proxy: Callable[..., Proxy]) -> None:
    running = proxy(replicas=1)
    replica = running.servers[0]
    replica.open.clear()
    with waiting(running.port, haproxy.MAX_AT_ONCE + 20, REQUEST + b"body") as connections:
        until(lambda: replica.seen == haproxy.MAX_AT_ONCE)
        time.sleep(0.3)
        assert replica.seen == haproxy.MAX_AT_ONCE
        replica.open.set()
        assert {status_of(each) for each in connections} == {200}


def test_who_waits_too_long_is_told_to_come_back(proxy: Callable[..., Proxy]) -> None:
    running = proxy(replicas=1)
    replica = running.servers[0]
    replica.open.clear()
    with waiting(running.port, haproxy.MAX_AT_ONCE, REQUEST + b"body") as connections:
        until(lambda: replica.seen == haproxy.MAX_AT_ONCE)
        started = time.monotonic()
        with running.connection() as ask:
            assert ask()[0] == 503
        assert haproxy.QUEUE_TIMEOUT_S - 0.5 < time.monotonic() - started < SERVER_TIMEOUT_S
        replica.open.set()
        assert {status_of(each) for each in connections} == {200}


def test_a_caller_with_one_request_goes_before_one_with_hundreds(proxy: Callable[..., Proxy]) -> None:
    running = proxy(replicas=1)
    replica = running.servers[0]
    replica.open.clear()
    with waiting(running.port, haproxy.MAX_AT_ONCE + 200, with_key("greedy")):
        until(lambda: replica.seen == haproxy.MAX_AT_ONCE)
        with waiting(running.port, 1, with_key("modest")) as (modest,):
            time.sleep(0.3)
            replica.open.set()
            assert status_of(modest) == 200
    assert replica.keys.index(b"modest") < haproxy.MAX_AT_ONCE + 50  # of 200; HAProxy's threads take turns


@pytest.mark.parametrize("path", ["/v1/videos/a/b/file", "/v1/tracks/t1/file"])
def test_media_that_play_take_no_places_of_requests(proxy: Callable[..., Proxy], path: str) -> None:
    running = proxy(replicas=1)
    replica = running.servers[0]
    replica.open.clear()
    count = haproxy.MAX_AT_ONCE + 5
    with waiting(running.port, count, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()):
        until(lambda: replica.seen == count)
        replica.open.set()
        with running.connection() as ask:
            assert ask()[0] == 200


def test_no_path_reaches_syslog(proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """Paths hold the ids of users."""
    running = proxy()
    targets = [line.split()[1] for line in (tmp_path / "haproxy.cfg").read_text().splitlines() if line.split()[:1] == ["log"]]
    assert set(targets) <= {"global", str(tmp_path / "m.sock")}
    with running.connection() as ask:
        assert ask()[0] == 200
