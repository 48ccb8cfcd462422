"""Titles through a tiny BERT that the test itself saves; any script; errors that say what to place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rayrec.config import ConfigError, Features, TextFeatures
from rayrec.features import text
from rayrec.features.rows import Networks, load_networks
from rayrec.features.text import text_features, text_network, transformer_of

pytest.importorskip("transformers", reason="the extra `text` is not installed")

TITLES = ["a cat plays the piano", "小猫弹钢琴", "قطة تعزف على البيانو", "🐱🎹", "A Cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a vocabulary of bytes, as `save_pretrained` leaves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[CLS]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(path)
    return path


def test_the_mean_of_the_last_hidden_state(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    network = text_network(TextFeatures(model=str(folder)))
    vectors = text_features(network, [None, *TITLES, "", "  "])
    assert [vector is None for vector in vectors] == [True, *[False] * len(TITLES), True, True]
    tokenizer, body = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for title, vector in zip(TITLES, vectors[1:], strict=False):
        with torch.inference_mode():  # one by one, so without padding
            expected = body(**tokenizer([title], return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert vector.dtype == np.float32
        assert vector == pytest.approx(expected, abs=1e-5), title
    assert len({vector.tobytes() for vector in vectors[1:6]}) == len(TITLES)
    assert text_features(network, [None]) == [None]


def test_long_titles_are_cut(folder: Path) -> None:
    network = text_network(TextFeatures(model=str(folder), most_tokens=8))
    one, other = text_features(network, ["abcdefgh" * 100, "abcdefgh" * 200])
    assert one == pytest.approx(other, abs=1e-6)


def test_many_titles_go_through_in_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = text_network(TextFeatures(model=str(folder)))
    together = text_features(network, TITLES)
    monkeypatch.setattr(text, "TITLES_AT_ONCE", 2)
    for one, other in zip(together, text_features(network, TITLES), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_it_is_one_of_the_networks(folder: Path) -> None:
    networks = load_networks(Features(image=None, motion=None, audio=None, text=TextFeatures(model=str(folder))), seed=7)
    assert networks == Networks(text=networks.text)
    assert networks.to(torch.device("cpu")).text is networks.text


def test_an_untrained_one_of_the_same_shape(folder: Path) -> None:
    body = transformer_of((folder / "config.json").read_text())
    body.load_state_dict(text_network(TextFeatures(model=str(folder))).body.state_dict())


def test_a_model_that_cannot_be_had(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for model in (str(tmp_path / "nowhere"), str(tmp_path / "empty"), "nobody/no-such-model-at-all"):
        with pytest.raises(
            ConfigError, match=r"features\.text\.model: .* can't be loaded .*path of a folder with the model's config\.json"
        ):
            text_network(TextFeatures(model=model))


def test_pickled_weights_are_refused(tmp_path: Path, folder: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"features\.text\.model: .*model\.safetensors"):
        text_network(TextFeatures(model=str(tmp_path)))


def test_weights_that_are_not_whole_are_refused(tmp_path: Path, folder: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"lack 16 tensors of the model, such as encoder\.layer\.2"):
        text_network(TextFeatures(model=str(tmp_path)))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"features\.text\.model needs transformers.*pip install 'rayrec\[text\]'"):
        text_network(TextFeatures(model="any"))
