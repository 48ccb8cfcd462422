"""Media in a store are passed on, whole or in ranges of bytes; what a store does wrong is said without a secret."""

from pathlib import Path

import httpx
import pytest
from starlette.exceptions import HTTPException

from rayrec.config import Config
from rayrec.serving.http import media
from rayrec.serving.http.media import byte_range
from rayrec.serving.recommender import Recommender
from rayrec.workspace.files import open_filesystem
from tests.fixtures.s3 import S3
from tests.serving.http.helpers import error
from tests.serving.small_world import DEAD_STORE

FILE = "/v1/videos/v6/file"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=7-", (7, 10)),
        ("bytes=7-99", (7, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=1-2", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges_are_those_of_the_rfc(asked: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(asked, 10) == expected


@pytest.mark.parametrize(("asked", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_a_range_behind_the_end_is_refused(asked: str, size: int) -> None:
    with pytest.raises(HTTPException) as refusal:
        byte_range(asked, size)
    assert (refusal.value.status_code, refusal.value.headers) == (416, {"content-range": f"bytes */{size}"})


@pytest.fixture
def in_store(recommender: Recommender, published: Config, s3: S3, monkeypatch: pytest.MonkeyPatch) -> tuple[str, bytes]:
    """The clip of v6 in a bucket with a name that needs care; its URI and its bytes."""
    data, uri = Path(published.workspace, "media", "clip.mp4").read_bytes(), s3.uri(f"{s3.bucket()}/a b/clip 100%.mp4")
    name_as(recommender, uri, monkeypatch)
    fs, path = open_filesystem(uri)
    with fs.open_output_stream(path) as stream:
        stream.write(data)
    return uri, data


def name_as(recommender: Recommender, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalog say that all files are there."""
    monkeypatch.setattr(type(recommender.bundle), "facts_of", lambda bundle, items: [{"uri": uri}])


def test_a_file_in_a_bucket_can_be_played_and_sought_in(
    client: httpx.Client, in_store: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "PIECE", 1000)
    _, data = in_store
    whole = client.get(FILE)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, data, "video/mp4")
    assert (whole.headers["accept-ranges"], whole.headers["content-length"]) == ("bytes", str(len(data)))
    for asked, start, end in (("250-259", 250, 260), ("1500-", 1500, len(data)), ("-7", len(data) - 7, len(data))):
        part = client.get(FILE, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, data[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    behind = client.get(FILE, headers={"Range": f"bytes={len(data)}-"})
    assert "nothing in the range" in error(behind, 416)
    assert behind.headers["content-range"] == f"bytes */{len(data)}"


def test_a_range_of_a_file_that_was_replaced_is_the_whole_new_file(client: httpx.Client, in_store: tuple[str, bytes]) -> None:
    uri, data = in_store
    tag = client.get(FILE, headers={"Range": "bytes=0-9"}).headers["etag"]
    asked = {"Range": "bytes=0-9", "If-Range": tag}
    assert client.get(FILE, headers=asked).content == data[:10]
    fs, path = open_filesystem(uri)
    with fs.open_output_stream(path) as stream:
        stream.write(data + b"more")
    answer = client.get(FILE, headers=asked)
    assert (answer.status_code, answer.content) == (200, data + b"more")


@pytest.mark.parametrize(
    "uri", [DEAD_STORE, "s3://BUCKET/gone.mp4", "s3://no-such-bucket/a.mp4", "nowhere://key:hidden@host/a.mp4"]
)
def test_a_file_that_cannot_be_read_is_said_without_a_secret(
    uri: str,
    client: httpx.Client,
    recommender: Recommender,
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if uri.startswith("s3://") and uri != DEAD_STORE:
        uri = s3.uri(uri.removeprefix("s3://").replace("BUCKET", s3.bucket()))
    name_as(recommender, uri, monkeypatch)
    with caplog.at_level("INFO"):
        answer = client.get(FILE)
    if "gone" in uri or "nowhere" in uri:
        assert error(answer, 404) == "video 'v6' has no file that this service can send"
    else:
        assert error(answer, 503) == "the file of video 'v6' can't be read now; the service's log says why"
        assert answer.headers["retry-after"]
        assert ("nothing answers at 127.0.0.1:1" if uri == DEAD_STORE else "there is no such bucket") in caplog.text
    assert "video 'v6': " in caplog.text
    assert "hidden" not in caplog.text
