"""A published small world, once for all tests of serving, and a recommender over it."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from rayrec.config import Config, load
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.recommender import Recommender
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.workspace.versions import Workspace
from tests.serving.media_world import build_media_world
from tests.serving.music_world import build_music_world
from tests.serving.small_world import build_workspace, rank_by_number
from tests.serving.stores import RedisServer, redis_server


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a workspace with a bundle. Tests must not change it."""
    return build_workspace(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def media_world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a workspace whose bundle can describe new videos. Tests must leave it as it is."""
    return build_media_world(tmp_path_factory.mktemp("media_world"))


@pytest.fixture(scope="session")
def music_world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a workspace whose bundle has music and search. Tests must leave it as it is."""
    return build_music_world(tmp_path_factory.mktemp("music_world"))


@pytest.fixture(scope="session")
def bundle(published: Config) -> Bundle:
    workspace = Workspace(published.workspace)
    version, folder = locate(workspace, None)
    return Bundle.load(workspace.fs, folder, version)


@pytest.fixture
def recommender(bundle: Bundle, published: Config, tmp_path: Path) -> Iterator[Recommender]:
    store = SqliteStore(tmp_path / "events.db")
    yield Recommender(bundle, store, rank_by_number, published.recall, published.selection, seed=0)
    store.close()


@pytest.fixture
def musical(music_world: Config, tmp_path: Path) -> Iterator[Recommender]:
    """A recommender over the bundle with music."""
    workspace = Workspace(music_world.workspace)
    version, folder = locate(workspace, None)
    store = SqliteStore(tmp_path / "music-events.db")
    bundle = Bundle.load(workspace.fs, folder, version)
    yield Recommender(bundle, store, rank_by_number, music_world.recall, music_world.selection, seed=0)
    store.close()


@pytest.fixture
def listen() -> Iterator[Callable[[FastAPI], httpx.Client]]:
    """Serve an application on a free port of the loopback until the test ends; gives a client for it."""
    servers: list[tuple[uvicorn.Server, threading.Thread, httpx.Client]] = []

    def start(api: FastAPI) -> httpx.Client:
        server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}")
        servers.append((server, thread, client))
        return client

    yield start
    for server, thread, client in servers:
        client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """The config of an empty state, once for each store. Without a redis-server on the machine only SQLite is tested."""
    if request.param == "redis":
        server = request.getfixturevalue("redis")
        server.flush()
        return load(None, [f"serving.state={server.url}"])
    return load(None, [f"serving.state={tmp_path / 'state' / 'events.db'}"])
