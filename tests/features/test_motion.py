"""Motion features, every kind of motion model with random weights, and C3D against the numbers of its paper and a plain reading."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from torch.nn import functional

from rayrec.config import ConfigError, Features, MotionFeatures
from rayrec.features.motion import C3D, motion_features, motion_network
from tests.features.every_model import check

MOTION = MotionFeatures(model="r3d_18", weights="none", output="pooled", frames=4, size=32)
CLIPS = np.random.default_rng(5).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
# (model, output, size where the model allows another one than its own, numbers of a vector)
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

# Tran et al., 2015, section 3.2: filters of each convolution, all 3x3x3, with a pooling after each number of layers 1, 2, 4, 6, 8.
FILTERS = {"conv1": 64, "conv2": 128, "conv3a": 256, "conv3b": 256, "conv4a": 512, "conv4b": 512, "conv5a": 512, "conv5b": 512}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return C3D().state_dict()


def test_as_many_parameters_as_the_original_layer_by_layer(state: dict[str, torch.Tensor]) -> None:
    expected, inputs = {}, 3
    for name, filters in FILTERS.items():
        expected[name] = inputs * filters * 3**3 + filters
        inputs = filters
    for name, outputs, inputs in (("fc6", 4096, 8192), ("fc7", 4096, 4096), ("fc8", 487, 4096)):
        expected[name] = inputs * outputs + outputs
    counts = {name: state[f"{name}.weight"].numel() + state[f"{name}.bias"].numel() for name in expected}
    assert counts == expected
    assert sum(value.numel() for value in state.values()) == 79_991_015
    assert state["fc6.weight"].shape[1] == 8192


def test_weights_from_a_path_give_fc7(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "c3d.safetensors"
    state = {name: value.half() for name, value in state.items()}
    safetensors.torch.save_file(state, path)
    network = motion_network(MotionFeatures(model="c3d", weights=str(path)), seed=7)
    assert (network.size, network.resize) == (112, 128)
    clip = np.random.default_rng(4).integers(0, 256, (16, 112, 112, 3), dtype=np.uint8)
    (vector,) = motion_features(network, [clip[None]])
    assert vector.shape == (4096,)
    assert vector == pytest.approx(fc7({name: value.float() for name, value in state.items()}, clip), rel=1e-3, abs=1e-2)


def fc7(state: dict[str, torch.Tensor], clip: np.ndarray) -> np.ndarray:
    """Written down once more from the paper: blue first, mean taken off, ReLU after every layer, pool1 1x2x2, pool5 padded."""
    x = torch.from_numpy(clip[..., ::-1] - np.array([90, 98, 102])).float().permute(3, 0, 1, 2)[None]
    pools = {"conv1": ((1, 2, 2), 0), "conv2": (2, 0), "conv3b": (2, 0), "conv4b": (2, 0), "conv5b": (2, (0, 1, 1))}
    for name in FILTERS:
        x = functional.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
        if name in pools:
            x = functional.max_pool3d(x, pools[name][0], padding=pools[name][1])
    x = x.reshape(1, -1)
    for name in ("fc6", "fc7"):
        x = (x @ state[f"{name}.weight"].T + state[f"{name}.bias"]).relu()
    return x[0].numpy()


def test_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match=r"torchvision ships no weights of c3d\. Set features\.motion\.weights to the path"):
        motion_network(MotionFeatures(model="c3d"), seed=7)
    with pytest.raises(ConfigError, match="made for 16 frames of 112 x 112 pixels"):
        motion_network(MotionFeatures(model="c3d", weights="none", frames=8), seed=7)


def test_clips_of_a_video_become_their_mean() -> None:
    network = motion_network(MOTION, seed=7)
    first, none, both = motion_features(network, [CLIPS[:1], None, CLIPS])
    assert first.shape == both.shape == (512,)
    assert none is None
    second = motion_features(network, [CLIPS[1:]])[0]
    assert both == pytest.approx((first + second) / 2, abs=1e-4)
    assert motion_features(network, [None]) == [None]


@pytest.mark.parametrize(("model", "output", "size", "numbers"), MOTIONS)
def test_motion_models(clip_rows: pa.Table, model: str, output: str, size: int | None, numbers: int) -> None:
    motion = MotionFeatures(model=model, output=output, size=size, weights="none", clips=1)
    # The largest see one real clip and our own.
    few = clip_rows if size else clip_rows.take([0, clip_rows.num_rows - 1])
    check(few, Features(image=None, motion=motion, audio=None), "motion", numbers)
