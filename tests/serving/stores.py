"""Stores for tests: SQLite files and real Redis servers, each in a folder of its own and ended with the test."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class RedisServer:
    """A redis-server on a free port of an address of this machine that writes everything to disk before it answers."""

    def __init__(self, folder: Path, *settings: str, host: str = "127.0.0.1") -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed (Debian: apt-get install redis-server): the Redis store is NOT tested")
        redis = pytest.importorskip("redis", reason="the extra `redis` is not installed: the Redis store is NOT tested")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.host, self.settings = folder, host, settings or ("--appendonly", "yes", "--appendfsync", "always")
        with socket.socket() as free:
            free.bind((host, 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://{host}:{self.port}/0"
        self.client = redis.Redis.from_url(self.url)

    def start(self) -> None:
        place = ["--bind", self.host, "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen(["redis-server", *place, *self.settings], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                with socket.create_connection((self.host, self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass  # not there yet
            time.sleep(0.01)
        raise RuntimeError("redis-server did not start within 10 s")

    def flush(self) -> None:
        self.client.flushall()

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server(folder: Path, *settings: str, host: str = "127.0.0.1") -> Iterator[RedisServer]:
    server = RedisServer(folder, *settings, host=host)
    server.start()
    try:
        yield server
    finally:
        server.kill()
