"""Titles through a tiny BERT that the test itself saves; any script; errors that say what to place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rayrec.config import ConfigError, Features, TextFeatures, base
from rayrec.features import text
from rayrec.features.rows import Networks, load_networks
from rayrec.features.text import text_features, text_network, transformer_of

pytest.importorskip("transformers", reason="the extra `text` is not installed")

TITLES = ["a cat plays the piano", "小猫弹钢琴", "قطة تعزف على البيانو", "🐱🎹", "A Cat"]


def test_the_mean_of_the_last_hidden_state(tiny_bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    network = text_network(TextFeatures(model=str(tiny_bert)))
    vectors = text_features(network, [None, *TITLES, "", "  "])
    assert [vector is None for vector in vectors] == [True, *[False] * len(TITLES), True, True]
    tokenizer, body = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()
    for title, vector in zip(TITLES, vectors[1:], strict=False):
        with torch.inference_mode():  # one by one, so without padding
            expected = body(**tokenizer([title], return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert vector.dtype == np.float32
        assert vector == pytest.approx(expected, abs=1e-5), title
    assert len({vector.tobytes() for vector in vectors[1:6]}) == len(TITLES)
    assert text_features(network, [None]) == [None]


def test_long_titles_are_cut(tiny_bert: Path) -> None:
    network = text_network(TextFeatures(model=str(tiny_bert), max_tokens=8))
    one, other = text_features(network, ["abcdefgh" * 100, "abcdefgh" * 200])
    assert one == pytest.approx(other, abs=1e-6)


def test_many_titles_go_through_in_batches(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = text_network(TextFeatures(model=str(tiny_bert)))
    together = text_features(network, TITLES)
    monkeypatch.setattr(text, "TITLES_AT_ONCE", 2)
    for one, other in zip(together, text_features(network, TITLES), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_it_is_one_of_the_networks(tiny_bert: Path) -> None:
    networks = load_networks(Features(image=None, motion=None, audio=None, text=TextFeatures(model=str(tiny_bert))), seed=7)
    assert networks == Networks(text=networks.text)
    assert networks.to(torch.device("cpu")).text is networks.text


def test_an_untrained_one_of_the_same_shape(tiny_bert: Path) -> None:
    body = transformer_of((tiny_bert / "config.json").read_text())
    body.load_state_dict(text_network(TextFeatures(model=str(tiny_bert))).body.state_dict())


def test_a_model_that_cannot_be_had(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for model in (str(tmp_path / "nowhere"), str(tmp_path / "empty"), "nobody/no-such-model-at-all"):
        with pytest.raises(
            ConfigError, match=r"features\.text\.model: .* can't be loaded .*path of a folder with the model's config\.json"
        ):
            text_network(TextFeatures(model=model))


def test_pickled_weights_are_refused(tmp_path: Path, tiny_bert: Path) -> None:
    for file in tiny_bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"features\.text\.model: .*model\.safetensors"):
        text_network(TextFeatures(model=str(tmp_path)))


def test_weights_that_are_not_whole_are_refused(tmp_path: Path, tiny_bert: Path) -> None:
    for file in tiny_bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny_bert / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"lack 16 tensors of the model, such as encoder\.layer\.2"):
        text_network(TextFeatures(model=str(tmp_path)))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"features\.text\.model needs the package transformers.*pip install 'rayrec\[text\]'"):
        text_network(TextFeatures(model="any"))
