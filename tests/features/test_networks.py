"""Networks by name: shapes, determinism, weights from files, and errors that say what to change."""

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from rayrec.config import ConfigError, ImageFeatures, MotionFeatures
from rayrec.features import networks
from rayrec.features.image import image_features, image_network
from rayrec.features.motion import motion_features, motion_network

IMAGE = ImageFeatures(model="resnet18", weights="none", output="pooled", frames=2, size=32)
MOTION = MotionFeatures(model="r3d_18", weights="none", output="pooled", frames=4, size=32)
RNG = np.random.default_rng(5)
PICTURES = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
CLIPS = RNG.integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)


def test_many_inputs_go_through_in_even_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of one video may fall into two pieces, and those of two videos into one."""
    network = image_network(IMAGE, seed=7)
    stacks = [PICTURES[:3], None, PICTURES[3:5], PICTURES[5:], PICTURES[:1]]
    whole, _ = image_features(network, stacks, [])
    monkeypatch.setattr(networks, "FRAMES_AT_ONCE", 3)
    cut, _ = image_features(network, stacks, [])
    for one, other in zip(whole, cut, strict=True):
        assert (one is None and other is None) or one == pytest.approx(other, abs=1e-4)
    assert [len(piece) for piece in networks.pieces(list(PICTURES))] == [3, 3]
    assert [len(piece) for piece in networks.pieces([*PICTURES, PICTURES[0]])] == [2, 2, 3]  # not 3, 3 and a lone one
    assert [len(piece) for piece in networks.pieces(list(CLIPS))] == [1, 1]  # a clip of 4 frames can't be cut


def test_sizes_are_the_models_own_unless_given() -> None:
    def sizes(model: str, **given: int) -> tuple[int, int]:
        network = image_network(ImageFeatures(model=model, weights="none", **given), seed=7)
        return network.size, network.resize

    assert sizes("resnet18") == (224, 256)
    assert sizes("resnet18", size=112) == (112, 128)
    assert sizes("squeezenet1_1", size=112, resize=112) == (112, 112)
    with pytest.raises(ConfigError, match=r"features\.image\.resize=64 is less than size=96"):
        sizes("resnet18", size=96, resize=64)
    motion = motion_network(MOTION.model_copy(update={"size": None}), seed=7)
    assert (motion.size, motion.resize) == (112, 128)


@pytest.mark.parametrize("output", ["pooled", "logits"])
def test_random_networks_depend_on_the_seed_alone(output: str) -> None:
    image, motion = IMAGE.model_copy(update={"output": output}), MOTION.model_copy(update={"output": output})

    def vectors(seed: int) -> tuple[np.ndarray, np.ndarray]:
        torch.rand(3)  # what was drawn before makes no difference
        frames, _ = image_features(image_network(image, seed), list(PICTURES[:, None]), [None])
        return np.stack(frames), np.stack(motion_features(motion_network(motion, seed), list(CLIPS[:, None])))

    for first, again, other in zip(vectors(7), vectors(7), vectors(8), strict=True):
        assert (first == again).all()
        assert not np.allclose(first, other)
        assert np.isfinite(first).all()
        assert 0.05 < first.std() < 20
        assert np.abs(first[0] - first[1]).mean() > 0.01  # different pictures, different vectors


def test_a_deep_random_network_stays_in_scale() -> None:
    network = image_network(ImageFeatures(model="resnet101", weights="none", output="logits", size=32), seed=7)
    ramp = np.linspace(0, 255, 32)[:, None, None] * np.ones((32, 3))
    pictures = ramp * np.array([[1, 0.5, 0], [0, 0.5, 1]])[:, None, None]
    with torch.inference_mode():
        logits = network(torch.from_numpy(pictures.astype(np.uint8)))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()
    assert 0.1 < logits.std() < 1000  # 1e5 and more with batch norms as they are initialised


def test_the_caller_keeps_its_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    image_network(IMAGE, seed=7)
    assert (torch.rand(4) == expected).all()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_from_a_path(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(11)
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    network = image_network(ImageFeatures(model="squeezenet1_1", weights=str(path), size=64), seed=7)
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = model(normalise(pictures.permute(0, 3, 1, 2) / 255))
        assert torch.allclose(network(pictures), expected, atol=1e-5)


def test_pooled_features_do_not_ask_how_many_classes_the_weights_tell_apart(tmp_path: Path) -> None:
    torch.manual_seed(11)
    model = torchvision.models.resnet18(num_classes=5).eval()
    torch.save(model.state_dict(), tmp_path / "five.pt")
    settings = IMAGE.model_copy(update={"weights": str(tmp_path / "five.pt")})
    network = image_network(settings, seed=7)
    with torch.inference_mode():
        normalised = (torch.from_numpy(PICTURES) / 255 - network.mean) / network.std
        assert torch.allclose(model.fc(network(torch.from_numpy(PICTURES))), model(normalised.movedim(-1, 1)), atol=1e-5)
    with pytest.raises(ConfigError, match="size mismatch for fc"):
        image_network(settings.model_copy(update={"output": "logits"}), seed=7)


def test_default_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ConfigError) as caught:
        image_network(ImageFeatures(model="resnet18"), seed=7)
    message = str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in message
    assert "features.image.weights" in message
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    other_kind = dict.fromkeys(("text.pt", "other.pt", "broken.safetensors"), "not a state dict")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "broken.safetensors").write_text("hello")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pt")  # another model's
    for name, reason in ({"missing.pt": "can't be opened"} | other_kind).items():
        with pytest.raises(ConfigError, match=f"features.motion.weights: .*{reason}"):
            motion_network(MOTION.model_copy(update={"weights": str(tmp_path / name)}), seed=7)


def test_weights_that_are_broken_are_found_out(tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    state["features.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ConfigError, match="not finite"):
        image_network(ImageFeatures(model="squeezenet1_1", weights=str(tmp_path / "nan.pt"), size=64), seed=7)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ConfigError, match="not a state dict"):
        image_network(IMAGE.model_copy(update={"weights": str(tmp_path / "trap.pt")}), seed=7)
    assert not (tmp_path / "sprung").exists()


def test_unknown_models_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"features\.image\.model: .*'resnet19'; did you mean 'resnet1"):
        image_network(ImageFeatures(model="resnet19", weights="none"), seed=7)
    with pytest.raises(ConfigError, match=r"features\.motion\.model: .*'r3d_81'.* 'r3d_18'"):
        motion_network(MotionFeatures(model="r3d_81", weights="none"), seed=7)
    with pytest.raises(ConfigError, match=r"features.motion: s3d can't take inputs of \(4, 32, 32, 3\)"):
        motion_network(MotionFeatures(model="s3d", weights="none", frames=4, size=32), seed=7)
