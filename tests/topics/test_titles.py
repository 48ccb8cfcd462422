"""Titles as numbers."""

import numpy as np
import pytest

from rayrec.topics.titles import MAX_BAGGED, MAX_SUBWORDS, HashedTitles, SubwordTitles, TitleCodec, padded, words_and_trigrams

SCRIPTS = ["Cats 猫 and dogs", "القط يجري", "🎬🐈 مرحبا", None, "", "naïve café"]


def test_words_and_trigrams_of_any_script() -> None:
    assert words_and_trigrams("Cats 猫") == ["cats", "<ca", "cat", "ats", "ts>", "猫", "<猫>"]
    assert words_and_trigrams("") == []
    assert words_and_trigrams("\uff23\uff21\uff34") == words_and_trigrams("cat")
    assert len(words_and_trigrams("🎬مرحبا" * 5000)) <= MAX_BAGGED


@pytest.mark.parametrize("codec", [HashedTitles(), SubwordTitles.learned(["cats and dogs"] * 3)], ids=["bag", "subwords"])
def test_every_script_has_numbers_and_nothing_has_none(codec: TitleCodec) -> None:
    numbers = codec.numbers(SCRIPTS)
    assert [bool(found) for found in numbers] == [True, True, True, False, False, True]
    assert all(0 < number < codec.size for found in numbers for number in found)


def test_subwords_are_learned_saved_and_bounded() -> None:
    codec = SubwordTitles.learned(["cats and dogs", "cats or dogs", None, "dogs"])
    assert len(codec.numbers(["dogs"])[0]) < len(codec.numbers(["sgod"])[0])  # what was seen is one piece, what was not is several
    restored = SubwordTitles(codec.to_json())
    assert restored.numbers(SCRIPTS) == codec.numbers(SCRIPTS)
    assert len(codec.numbers(["x y z " * 1000])[0]) == MAX_SUBWORDS
    assert SubwordTitles.learned(["cats and dogs", "cats or dogs", None, "dogs"]).to_json() == codec.to_json()


def test_padding() -> None:
    np.testing.assert_array_equal(padded([np.array([3, 4]), np.array([], int), np.array([5])], 9), [[3, 4], [9, 9], [5, 9]])
    assert padded([np.array([], int)], 0).shape == (1, 1)
