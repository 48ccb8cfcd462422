"""Rows through both steps: what they bring with them, sizes that the models choose, and settings that can't be used."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from rayrec.config import AudioFeatures, ConfigError, Features, ImageFeatures, MotionFeatures
from rayrec.features.rows import DECODED, EXTRACTED, FAILED, decode_rows, load_networks, network_rows, resolved
from rayrec.tables import TEXT
from tests.features.clips import tone, write_clip


def test_from_files_to_vectors(tmp_path: Path, small: Features) -> None:
    paths = {
        "good": write_clip(tmp_path / "good.mp4", sound=tone(440, 2.0)),
        "blind": write_clip(tmp_path / "blind.mp4", frames=0, sound=tone(440, 1.0)),
        "missing": tmp_path / "missing.mp4",
        "single": write_clip(tmp_path / "single.mp4", frames=1),
    }
    rows = pa.table(
        {
            "video_id": list(paths),
            "uri": [str(path) for path in paths.values()],
            "title": ["a", None, "c", "d"],
            "file_version": ["1", "2", "3", "4"],
        },
        schema=pa.schema(dict.fromkeys(("video_id", "uri", "title", "file_version"), TEXT)),
    )
    networks = load_networks(small, seed=7).to(torch.device("cpu"))
    decoded = decode_rows(rows, small)
    assert decoded.schema == DECODED
    assert decoded.select(["video_id", "title", "file_version"]) == rows.drop_columns(["uri"])
    found = network_rows(decoded, small, networks)
    assert found.schema == EXTRACTED
    lengths = [{name: len(row[name] or []) for name in ("image", "cover", "motion", "audio", "text")} for row in found.to_pylist()]
    picture = {"image": 512, "cover": 512, "motion": 512}
    nothing = dict.fromkeys(("image", "cover", "motion", "audio", "text"), 0)
    assert lengths == [nothing | picture | {"audio": 34}, nothing | {"audio": 34}, nothing, nothing | picture]
    assert found["status"].to_pylist() == ["ok", "ok", FAILED, "ok"]
    assert found["file_version"].to_pylist() == ["1", "2", "3", "4"]


def test_a_video_without_a_file_is_a_row_without_pictures() -> None:
    columns = {"video_id": ["a"], "uri": [None], "title": ["b"], "file_version": ["c"]}
    rows = pa.table({name: pa.array(values, TEXT) for name, values in columns.items()})
    (decoded,) = decode_rows(rows, Features()).to_pylist()
    assert {name: value for name, value in decoded.items() if value is not None} == {
        "video_id": "a",
        "title": "b",
        "file_version": "c",
        "status": "ok",
    }


def test_sizes_that_are_not_given_are_the_models_own() -> None:
    image = ImageFeatures(model="squeezenet1_1", weights="none")
    motion = MotionFeatures(model="mc3_18", weights="none", size=56)
    features = Features(image=image, motion=motion, audio=None)
    settings = resolved(features, load_networks(features, seed=7))
    assert settings.image == image.model_copy(update={"size": 224, "resize": 256})
    assert settings.motion == motion.model_copy(update={"resize": 64})
    assert settings.audio is None


def test_settings_that_cannot_be_used_are_found_at_once(small: Features) -> None:
    with pytest.raises(ConfigError, match="there are no features for sample_rate=100"):
        load_networks(small.model_copy(update={"audio": AudioFeatures(sample_rate=100)}), seed=7)


def test_decoding_needs_neither_torch_nor_scipy() -> None:
    command = "import sys, rayrec.features.rows; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=Path(__file__).parents[2])
