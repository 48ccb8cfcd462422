"""Pictures from folders and from covers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import ConfigError
from rayrec.features.compression.pictures import Pictures, from_covers, read_folder
from rayrec.features.media.frames import jpeg
from tests.features.compression.pictures import pixels_of, write_pictures


def test_folders_are_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path, 30)
    (tmp_path / "across" / "broken.jpg").write_text("no picture")
    (tmp_path / "across" / "notes.txt").write_text("no picture")
    pictures, faults = read_folder(str(tmp_path), 32, 32, limit=100, seed=1)
    assert pictures.classes == ("across", "down")
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [0] * 15 + [1] * 15
    assert np.array_equal(pictures.pixels, pixels_of(30)[np.r_[0:30:2, 1:30:2]])
    assert [path for path, _ in faults] == [str(tmp_path / "across" / "broken.jpg")]
    assert "not a picture" in faults[0][1]
    some, _ = read_folder(str(tmp_path), 32, 32, limit=25, seed=1)
    assert 24 <= len(some) <= 25


def test_a_folder_without_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path, 20, classes=False)
    pictures, _ = read_folder(str(tmp_path), 32, 40, limit=100, seed=1)
    assert (pictures.labels, pictures.classes, pictures.pixels.shape) == (None, (), (20, 32, 32, 3))


def test_too_few_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path, 19)
    with pytest.raises(ConfigError, match=r"has 19 readable pictures .*too few"):
        read_folder(str(tmp_path), 32, 32, limit=100, seed=1)
    covers = pa.table({"cover_jpeg": pa.array([jpeg(one) for one in pixels_of(3)] + [None] * 30, pa.large_binary())})
    with pytest.raises(ConfigError, match="has 3 covers"):
        from_covers(covers, 32, 32, limit=100, seed=1)


def test_covers() -> None:
    covers = pa.table({"cover_jpeg": pa.array([*(jpeg(one) for one in pixels_of(25)), None], pa.large_binary())})
    found = from_covers(covers, 32, 32, limit=100, seed=1)
    assert np.abs(found.pixels.astype(float) - pixels_of(25)).mean() < 10
    assert len(from_covers(covers, 32, 32, limit=21, seed=1)) == 21


def test_a_split_has_every_picture_once() -> None:
    pictures = Pictures(np.arange(50).reshape(50, 1, 1, 1), np.arange(50), ("a",))
    train, held_out = pictures.split(0.2, seed=3)
    assert (len(train), len(held_out)) == (40, 10)
    assert sorted([*train.pixels.ravel(), *held_out.pixels.ravel()]) == list(range(50))
    assert train.labels is not None
    assert np.array_equal(train.labels, train.pixels.ravel())
