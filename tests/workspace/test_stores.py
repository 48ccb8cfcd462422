"""URIs of object stores, and what a store that can't be used is said to be."""

import socket
import time
from collections.abc import Iterator

import pytest

from rayrec.errors import RayrecError
from rayrec.features.media.files import MediaError, file_versions, locate
from rayrec.workspace.files import open_filesystem, read_whole, write_whole
from rayrec.workspace.stores import join_uri, split_uri
from rayrec.workspace.versions import Workspace, WorkspaceError
from tests.fixtures.s3 import S3


@pytest.mark.parametrize(
    ("uri", "root", "path", "options"),
    [
        ("s3://bucket", "s3://bucket", "", ""),
        ("s3://bucket/a/b", "s3://bucket", "/a/b", ""),
        ("s3://bucket/a?scheme=http", "s3://bucket", "/a", "?scheme=http"),
        ("s3://bucket?a=1&b=http://h:1/x", "s3://bucket", "", "?a=1&b=http://h:1/x"),
        ("s3://bucket/what?.mp4", "s3://bucket", "/what?.mp4", ""),
        ("s3://bucket/what?.mp4?a=1", "s3://bucket", "/what?.mp4", "?a=1"),
        ("/a/b?c", "/a", "/b?c", ""),
    ],
)
def test_the_parts_of_a_uri(uri: str, root: str, path: str, options: str) -> None:
    if "://" in uri:
        assert split_uri(uri) == (root, path, options)
        assert "".join(split_uri(uri)) == uri
        assert join_uri(uri, "x y") == f"{root}{path}/x y{options}"
    else:
        assert join_uri(uri, "x") == f"{uri}/x"


@pytest.mark.parametrize("name", ["plain", "a b", "100%", "%41", "a#b", "what?.mp4", "ä+=&"])
def test_names_of_objects_mean_themselves(s3: S3, name: str) -> None:
    uri = s3.uri(s3.bucket())
    for at, opened in enumerate((open_filesystem, locate)):
        fs, path = opened(join_uri(uri, name))
        assert path == f"{split_uri(uri).root.removeprefix('s3://')}/{name}"
        write_whole(fs, path, name.encode() * (at + 1))
    fs, path = open_filesystem(join_uri(uri, name))
    assert read_whole(fs, path) == 2 * name.encode()
    size = len(name.encode()) * 2
    assert [version.split(":")[0] for version in file_versions([join_uri(uri, name)]).values()] == [str(size)]


def test_a_small_file_costs_one_request(s3: S3) -> None:
    bucket = s3.bucket()
    fs, path = open_filesystem(s3.uri(f"{bucket}/folder/file"))
    write_whole(fs, path, b"x")
    assert [request for request in s3.requests() if "/folder" in request and bucket in request] == [f"PUT /{bucket}/folder/file"]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes no connection."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_endpoint_that_does_not_answer_is_named_within_seconds(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.workspace.stores.CONNECT_S", 0.5)
    started = time.monotonic()
    for address in (silent, "127.0.0.1:1"):
        said = rf"^workspace s3://b/w\S+ can't be used: nothing answers at {address} "
        with pytest.raises(WorkspaceError, match=said) as found:
            Workspace(f"s3://b/w?endpoint_override={address}&scheme=http")
        assert "\n" not in str(found.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(WorkspaceError, match=r"workspace s3://b/w can't be used: nothing answers at 127.0.0.1:1 "):
        Workspace("s3://b/w")
    assert time.monotonic() - started < 3


def test_a_missing_bucket_is_named(s3: S3) -> None:
    with pytest.raises(WorkspaceError, match=r"^workspace s3://nothing/w\S+ can't be used: there is no such bucket; make it"):
        Workspace(s3.uri("nothing/w"))


def test_refused_credentials_are_named(s3: S3) -> None:
    uri = s3.uri(f"{s3.bucket()}/w")
    s3.check_credentials(True)
    try:
        with pytest.raises(WorkspaceError, match=r"can't be used: the store refuses the credentials; check AWS_ACCESS_KEY_ID, "):
            Workspace(uri)
        assert file_versions([join_uri(uri, "a.mp4"), join_uri(uri, "b.mp4")]) == {}
    finally:
        s3.check_credentials(False)
    Workspace(uri)


def test_media_in_a_store_that_does_not_answer_end_the_stage_with_a_sentence() -> None:
    with pytest.raises(MediaError, match=r"s3://b/a\.mp4\S+: the media can't be looked up: nothing answers there; check") as found:
        file_versions(["s3://b/a.mp4?endpoint_override=127.0.0.1:1&scheme=http"])
    assert isinstance(found.value, RayrecError)
