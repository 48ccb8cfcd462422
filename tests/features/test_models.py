"""Every kind of image and motion model, with random weights, on the real clips and on one of our own: shapes and sanity."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Features, ImageFeatures, MotionFeatures
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from tests.features.clips import tone, write_clip

# (model, output) -> numbers, at a small size where the model allows one. resnet152's logits are the sources' choice.
IMAGES = [
    ("resnet152", "logits", 64, 1000),
    ("resnet50", "pooled", 64, 2048),
    ("vit_b_32", "pooled", 64, 768),
    ("swin_t", "logits", 64, 1000),
    ("convnext_tiny", "pooled", 64, 768),
    ("efficientnet_b0", "pooled", 64, 1280),
    ("mobilenet_v3_small", "logits", 64, 1000),
    ("inception_v3", "pooled", 96, 2048),
]
MOTIONS = [
    ("c3d", "pooled", None, 4096),
    ("c3d", "logits", None, 487),
    ("r3d_18", "logits", 48, 400),
    ("r2plus1d_18", "pooled", 48, 512),
    ("mc3_18", "pooled", 48, 512),
    ("s3d", "pooled", None, 1024),
    ("mvit_v2_s", "pooled", None, 768),
    ("swin3d_t", "pooled", 48, 768),
    ("swin3d_s", "pooled", 48, 768),
    ("swin3d_b", "pooled", 48, 1024),
]


@pytest.fixture(scope="session")
def rows(real_videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    own = write_clip(tmp_path_factory.mktemp("clips") / "own.mp4", sound=tone(440, 2.0))
    paths = [*real_videos, own]
    titles = [f"title {number}" for number in range(len(paths))]
    return pa.table(
        {"video_id": [path.stem for path in paths], "uri": list(map(str, paths)), "title": titles, "file_version": titles}
    )


def check(rows: pa.Table, features: Features, column: str, numbers: int) -> None:
    networks = load_networks(features, seed=7)
    settings = resolved(features, networks)
    found = network_rows(decode_rows(rows, settings), settings, networks)
    assert found["status"].to_pylist() == ["ok"] * rows.num_rows
    assert found["file_version"].to_pylist() == rows["file_version"].to_pylist()
    vectors = np.stack(found[column].to_pylist())
    assert vectors.shape == (rows.num_rows, numbers)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(6), axis=0)) == rows.num_rows


@pytest.mark.parametrize(("model", "output", "size", "numbers"), IMAGES)
def test_image_models(rows: pa.Table, model: str, output: str, size: int, numbers: int) -> None:
    image = ImageFeatures(model=model, output=output, size=size, weights="none", frames=2)
    check(rows, Features(image=image, motion=None, audio=None), "image", numbers)


@pytest.mark.parametrize(("model", "output", "size", "numbers"), MOTIONS)
def test_motion_models(rows: pa.Table, model: str, output: str, size: int | None, numbers: int) -> None:
    motion = MotionFeatures(model=model, output=output, size=size, weights="none", clips=1)
    # The largest see one real clip and our own.
    few = rows if size else rows.take([0, rows.num_rows - 1])
    check(few, Features(image=None, motion=motion, audio=None), "motion", numbers)
