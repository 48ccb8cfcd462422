"""HAProxy as `haproxy.sh` starts it, with the configuration that Ray writes for it, in front of two test servers."""

import asyncio
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from rayrec.serving.cluster import head, processes
from tests.serving.sockets import listening

REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"


class Server:
    """Answers every request with 200 and its name; when `dying`, it closes the connection without an answer."""

    def __init__(self, name: bytes) -> None:
        self.name, self.dying, self.seen = name, False, 0
        self.head = b"200 OK"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

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
                if self.dying:
                    return
                while not received.endswith(b"body") and (more := connection.recv(65536)):
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
    port, stats, metrics = processes.free_ports(3)
    settings = head.HAPROXY_SETTINGS
    servers = Server(b"first"), Server(b"second")
    started: list[subprocess.Popen] = []

    def start(host: str = "127.0.0.1") -> Proxy:
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
            has_received_routes=True,
            has_received_servers=True,
        )
        first, second = (ServerConfig(name=server.name.decode(), host="127.0.0.1", port=server.port) for server in servers)
        backend = BackendConfig(name="app", path_prefix="/", app_name="app", servers=[first], fallback_server=second)
        api = HAProxyApi(config, {"app": backend}, config_file_path=f"{tmp_path}/haproxy.cfg")
        api._generate_config_file_internal()
        (tmp_path / "state").touch()
        started.append(subprocess.Popen([head.HAPROXY, "-db", "-f", api.config_file_path], stderr=subprocess.DEVNULL))
        asyncio.run(api._wait_for_hap_availability(started[-1]))
        return Proxy(port, servers, started[-1])

    yield start
    for process in started:
        process.kill()
        process.wait()
    for server in servers:
        server.listener.close()


@pytest.mark.parametrize("pause_s", [0, 0.2])
def test_a_request_whose_replica_dies_is_answered_by_another(proxy: Callable[..., Proxy], pause_s: float) -> None:
    running = proxy()
    with running.connection() as ask:
        assert ask(pause_s=pause_s)[2] == b"first"
        first, _ = running.servers
        first.dying = True
        first.listener.close()
        assert ask(pause_s=pause_s)[2] == b"second"


@pytest.mark.parametrize("head", ["", "500 Internal Server Error\r\nContent-Type: text/plain", "503 Service Unavailable"])
def test_an_error_that_is_not_the_services_is_a_503_to_be_tried_again(proxy: Callable[..., Proxy], head: str) -> None:
    running = proxy()
    with running.connection() as ask:
        assert ask()[2] == b"first"
        for server in running.servers:
            server.dying, server.head = not head, head.encode()
        status, headers, body = ask()
    assert (status, headers["Retry-After"], headers["Content-Type"]) == (503, "1", "application/json")
    assert body == b'{"error":"no replica can answer now; try again in a second"}'


def test_an_error_of_the_services_own_stays(proxy: Callable[..., Proxy]) -> None:
    running = proxy()
    running.servers[0].head = b"500 Internal Server Error\r\nContent-Type: application/json"
    with running.connection() as ask:
        status, _, body = ask()
    assert (status, body) == (500, b"first")


def test_a_request_that_does_not_arrive_is_refused(proxy: Callable[..., Proxy]) -> None:
    running = proxy()
    with running.connection() as ask:
        status, headers, body = ask(b"bo")
    assert (status, headers["Content-Type"]) == (408, "application/json")
    assert body == b'{"error":"the request did not arrive within 5 s"}'
    assert running.servers[0].seen == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_service_alone_listens_elsewhere_than_on_the_loopback(proxy: Callable[..., Proxy], host: str) -> None:
    running = proxy(host)
    places = listening([psutil.Process(running.process.pid)])
    assert len(places) == 3
    assert {ip for ip, port in places if port == running.port} == {host}
    assert {ip for ip, port in places if port != running.port} == {"127.0.0.1"}
