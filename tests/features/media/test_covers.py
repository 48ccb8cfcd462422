"""The publisher's cover: files and addresses, sizes, orientation, what replaces it, and pictures that can't be used."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rayrec.config import Config, Features, ImageFeatures, Topics
from rayrec.features.media import covers
from rayrec.features.media.covers import CoverError, cover_versions, read_picture
from rayrec.features.media.frames import kept_size
from rayrec.features.rows import FAILED, decode_rows, with_cover_side
from rayrec.tables import TEXT
from tests.features.clips import tone, write_clip

SETTINGS = Features(image=ImageFeatures(size=32, resize=40), motion=None)
LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def picture(path: Path, width: int = 600, height: int = 400, **options: object) -> Path:
    """A picture of two halves: red on the left, blue on the right."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = LEFT, RIGHT
    Image.fromarray(pixels).save(path, **options)
    return path


def decoded(uri: Path | None, cover: Path | str | None, settings: Features = SETTINGS) -> dict[str, object]:
    columns = {"video_id": "v", "uri": uri, "cover_uri": cover, "title": None, "file_version": "1"}
    row = pa.table({name: pa.array([None if value is None else str(value)], TEXT) for name, value in columns.items()})
    return decode_rows(row, settings).to_pylist()[0]


def kept(row: dict[str, object]) -> Image.Image:
    assert isinstance(row["cover_jpeg"], bytes)
    return Image.open(io.BytesIO(row["cover_jpeg"]))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.avif"])
def test_it_takes_the_place_of_a_frame(tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", sound=tone(440, 2.0))
    row = decoded(clip, picture(tmp_path / name))
    assert (row["status"], row["frames"], kept(row).size) == ("ok", 24, (256, 171))
    assert isinstance(row["cover_pixels"], bytes)
    square = np.frombuffer(row["cover_pixels"], np.uint8).reshape(32, 32, 3)
    assert square[:, 2].mean(0) == pytest.approx(LEFT, abs=8)
    assert square[:, -3].mean(0) == pytest.approx(RIGHT, abs=8)
    assert row["images"] == decoded(clip, None)["images"]  # the frames are still those of the video
    assert row["cover_jpeg"] != decoded(clip, None)["cover_jpeg"]


def test_a_video_without_a_file_has_its_cover_alone(tmp_path: Path) -> None:
    row = decoded(None, picture(tmp_path / "a.png"))
    assert (row["status"], row["images"], row["audio"]) == ("ok", None, None)
    assert kept(row).size == (256, 171)


def test_a_cover_that_cannot_be_used_leaves_the_frame(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    row = decoded(clip, tmp_path / "gone.png")
    assert (row["status"], row["error"]) == ("partial", "cover: there is no such file")
    assert row["cover_jpeg"] == decoded(clip, None)["cover_jpeg"]
    assert decoded(None, tmp_path / "gone.png")["status"] == FAILED


def test_a_cover_stays_where_the_video_cannot_be_read(tmp_path: Path) -> None:
    row = decoded(tmp_path / "gone.mp4", picture(tmp_path / "a.png"))
    assert (row["status"], row["error"], kept(row).size) == ("partial", "there is no such file", (256, 171))
    both = decoded(tmp_path / "gone.mp4", tmp_path / "gone.png")
    assert (both["status"], both["error"]) == (FAILED, "there is no such file; cover: there is no such file")


def test_pictures_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(picture(tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # would start another program
    for name, reason in {
        "text.jpg": "it is not a picture",
        "empty.png": "it is not a picture",
        "cut.jpg": "it can't be read",
        "page.eps": "it is not a picture",
    }.items():
        with pytest.raises(CoverError, match=reason):
            read_picture(str(tmp_path / name))
    with pytest.raises(CoverError, match="it can't be read"):
        read_picture("nonsense://x/y.png")
    monkeypatch.setattr(covers, "MAX_PIXELS", 600 * 400 - 1)
    with pytest.raises(CoverError, match="it has 600 x 400 pixels; at most 239,999 are read"):
        read_picture(str(tmp_path / "whole.jpg"))
    monkeypatch.setattr(covers, "MAX_BYTES", 100)
    with pytest.raises(CoverError, match="at most 100 are read"):
        read_picture(str(tmp_path / "whole.jpg"))


def test_a_picture_that_a_phone_took_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    found = read_picture(str(picture(tmp_path / "a.jpg", exif=exif)))
    assert found.size == (400, 600)
    assert np.array(found)[10].mean(0) == pytest.approx(LEFT, abs=8)


def test_transparent_and_grey_pictures_become_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(tmp_path / "a.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "b.png")
    assert read_picture(str(tmp_path / "a.png")).mode == "RGB"
    assert read_picture(str(tmp_path / "b.png")).getpixel((0, 0)) == (77, 77, 77)


def test_covers_are_kept_as_large_as_the_network_needs() -> None:
    assert kept_size((1280, 720)) == (256, 144)
    assert kept_size((1280, 720), 224) == (398, 224)
    assert kept_size((720, 1280), 224) == (256, 455)
    assert kept_size((720, 1280), 299) == (299, 532)
    assert kept_size((100, 50), 224) == (100, 50)  # never larger than they are
    config = Config.model_validate({"topics": {"cover_network": {"size": 299}}})
    assert with_cover_side(config).cover_side == 299
    assert with_cover_side(Config(features=Features(cover_side=500), topics=config.topics)).cover_side == 500
    assert with_cover_side(Config(topics=Topics())).cover_side is None


def test_frames_are_kept_in_that_size_too(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", paint=lambda index, total: np.full((320, 640, 3), 9 + 5 * index, np.uint8))
    assert kept(decoded(clip, None)).size == (256, 128)
    assert kept(decoded(clip, None, SETTINGS.model_copy(update={"cover_side": 224}))).size == (448, 224)


def test_versions(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    first, second = "http://localhost:1/a.png", "https://localhost:1/b.png"
    before = cover_versions([str(file), first, second, str(tmp_path / "gone.png")])
    assert before.keys() == {str(file), first, second}  # no address is asked
    picture(file, width=500)
    after = cover_versions([str(file), first])
    assert after[first] == before[first] != before[second]
    assert after[str(file)] != before[str(file)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    data = picture(tmp_path / "served.jpg").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved.jpg":
                self.send_response(302)
                self.send_header("Location", "/a.jpg?size=large")
            else:
                self.send_response(200 if self.path.startswith("/a.jpg") else 404)
            self.end_headers()
            if self.path.startswith("/a.jpg"):
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_covers_are_fetched_from_addresses(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(decoded(None, f"{host}/a.jpg?v=1")).size == (256, 171)
    assert kept(decoded(None, f"{host}/moved.jpg")).size == (256, 171)
    assert decoded(None, f"{host}/b.jpg")["error"] == "cover: the host answered 404"
    monkeypatch.setattr(covers, "MAX_BYTES", 100)
    assert decoded(None, f"{host}/a.jpg")["error"] == "cover: it has more than 100 bytes"
