"""The words of titles and tags: how they are split, and the shares of a query against a loop over all videos."""

import math

import numpy as np
import pyarrow as pa

from rayrec.retrieval.words import Words, split_words, weights_of
from rayrec.tables import TEXT

TITLES = ["Zebra crossing: a UNICYCLE parade!", "unicycle, unicycle", None, "", "a parade", "noodles"]
TAGS = [["Street Life"], ["a"], ["zebra"], None, [], ["soup", "noodles"]]


def words_of(titles: list[str | None], tags: list[list[str] | None]) -> Words:
    return Words(pa.chunked_array([pa.array(titles, TEXT)]), pa.chunked_array([pa.array(tags, pa.list_(TEXT))]))


def test_words_are_split_in_any_script() -> None:
    texts = ["It's  RED-hot, №5!", "猫が好き cat", "Ночь, улица", "été naïve ﬁn", "!?", "", "नमस्ते दुनिया"]
    assert split_words(pa.array(texts, TEXT)).to_pylist() == [
        ["it", "s", "red", "hot", "no5"],
        ["猫", "が", "好", "き", "cat"],
        ["ночь", "улица"],
        ["été", "naïve", "fin"],
        [],
        [],
        ["नमस्ते", "दुनिया"],
    ]


def test_shares_equal_a_loop_over_the_videos() -> None:
    words = words_of(TITLES, TAGS)
    texts = [" ".join([title or "", *(tags or [])]) for title, tags in zip(TITLES, TAGS, strict=True)]
    sets = [set(words) for words in split_words(pa.array(texts, TEXT)).to_pylist()]
    for text in ("zebra unicycle", "a zebra A zebra", "life of noodles", "unheard words and soup"):
        weights = weights_of(text, [words])
        asked = set(text.lower().split())
        having = {word: sum(word in each for each in sets) for word in asked}
        idf = {word: math.log(1 + (6 - n + 0.5) / (n + 0.5)) for word, n in having.items()}
        assert weights.keys() == asked
        expected = [sum(idf[word] * 10 / (9 + having[word]) for word in asked & each) / sum(idf.values()) for each in sets]
        np.testing.assert_allclose(words.shares(weights), expected, rtol=1e-5)


def test_words_are_as_rare_as_in_all_segments() -> None:
    together, apart = words_of(TITLES, TAGS), [words_of(TITLES[:2], TAGS[:2]), words_of(TITLES[2:], TAGS[2:])]
    assert weights_of("a zebra soup", [together]) == weights_of("a zebra soup", apart)


def test_what_no_video_says_has_no_shares() -> None:
    for words in (words_of(TITLES, TAGS), words_of([], []), words_of([None, ""], [None, []])):
        assert words.shares(weights_of("submarine", [words])) is None
        assert words.shares({}) is None
