import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.fs as pafs
import pytest

from rayrec.config import WorldData
from rayrec.datasets.synthetic.media import SAMPLE_RATE, Clip, draw, encode, synthesise, write_clips
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.versions import Workspace

CLIP = Clip("v", picture=1, sound=2, frames=40, fps=12, side=64, seed=(7, 4, 0))


def content(source: io.BytesIO | str) -> tuple[np.ndarray, np.ndarray]:
    with av.open(source) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return pictures, sound


def test_a_clip_is_what_was_drawn_and_played() -> None:
    pictures, sound = content(io.BytesIO(encode(CLIP)))
    assert pictures.shape == (40, 64, 64, 3)
    assert np.abs(pictures.astype(int) - draw(CLIP)).mean() < 8  # grey levels, after H.264
    played = synthesise(CLIP)
    assert len(sound) >= len(played) == round(40 / 12 * SAMPLE_RATE)
    assert np.abs(np.abs(sound).mean() / np.abs(played).mean() - 1) < 0.1


def test_things_move_and_topics_differ() -> None:
    pictures = draw(CLIP).astype(int)
    assert np.abs(pictures[0] - pictures[6]).mean() > 2
    same = Clip("w", 1, 2, 40, 12, 64, (7, 4, 0))
    assert np.array_equal(draw(same), draw(CLIP))
    assert not np.array_equal(draw(Clip("w", 2, 2, 40, 12, 64, (7, 4, 0))), draw(CLIP))
    assert not np.array_equal(synthesise(Clip("w", 1, 3, 40, 12, 64, (7, 4, 0))), synthesise(CLIP))


@pytest.mark.parametrize("uri", [None, "memory://world"])
def test_a_small_world_ends_up_as_files(ingested: Callable[..., Workspace], tmp_path: Path, uri: str | None) -> None:
    workspace = ingested(WorldData(videos=12, users=10, topics=4, days=2, requests=40, picture=64), uri)
    catalog = workspace.read("catalog").to_pylist()
    assert len(catalog) == 12
    for video in catalog[:4]:
        filesystem, path = open_filesystem(video["uri"])
        with filesystem.open_input_file(path) as stream:
            pictures, sound = content(io.BytesIO(stream.read()))
        assert 3 <= len(pictures) / 12 <= 6
        assert video["duration_s"] == pytest.approx(len(pictures) / 12)
        assert len(sound) / SAMPLE_RATE == pytest.approx(video["duration_s"], abs=0.15)
    assert workspace.rejects("ingest").num_rows == 0
    assert workspace.read("truth_clicks").num_rows == workspace.read("interactions").num_rows == 400


def test_a_killed_run_goes_on_from_whole_files(tmp_path: Path) -> None:
    clips = [Clip(name, 0, 0, 37, 12, 64, (1, number)) for number, name in enumerate("abc")]
    (tmp_path / "a.mp4").write_bytes(b"made before")
    (tmp_path / "b.mp4.part").write_bytes(b"half of it")
    write_clips(clips, pafs.LocalFileSystem(), str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"made before"
    assert (tmp_path / "b.mp4").read_bytes() == encode(clips[1])
