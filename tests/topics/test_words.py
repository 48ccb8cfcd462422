"""Words and tags that mark a topic."""

import numpy as np
import pytest
import scipy.sparse as sp

from rayrec.topics.words import membership, title_words, typical


def test_what_is_frequent_here_and_rare_elsewhere_comes_first() -> None:
    titles = ["the cat naps", "the cat purrs", "the dog runs", "the dog barks runs", None]
    members = membership([np.array([0]), np.array([0]), np.array([1]), np.array([1, 0]), np.array([1])], 3)
    counts, words = title_words(titles)
    assert words == ["cat", "dog", "runs", "the"]  # a word of one title says nothing
    found = typical((members @ counts).tocsr(), words, 2)
    assert found[0][0] == "cat"
    assert set(found[1]) == {"dog", "runs"}
    assert found[2] == []


def test_titles_without_words_and_other_scripts() -> None:
    assert title_words([None, "", "!"])[1] == []
    assert typical(sp.csr_matrix((1, 0)), [], 5) == [[]]
    assert "猫" in title_words(["黑猫", "白猫"])[1]


def test_membership_with_weights() -> None:
    matrix = membership([np.array([1, 0]), np.array([1])], 2, [np.array([0.9, 0.5]), np.array([0.7])])
    np.testing.assert_allclose(matrix.toarray(), [[0.5, 0], [0.9, 0.7]])


def counted(topics: list[dict[str, int]]) -> tuple[sp.csr_matrix, list[str]]:
    """The matrix and the names of `typical`, from how often each topic has each word."""
    names = sorted({word for topic in topics for word in topic})
    return sp.csr_matrix([[topic.get(word, 0) for word in names] for topic in topics], dtype=np.float32), names


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Noodles", "noodle", True),
        ("#ramen", "Ramen!", True),
        ("hip-hop", "hip hop", True),
        ("ramen", "ramen soup", True),
        ("glass", "glas", False),
        ("cat", "catalog", False),
        ("猫", "狗", False),
        ("🍜", "🍣", False),
        ("\uff23\uff21\uff34", "cat", True),
    ],
)
def test_a_name_says_nothing_twice(one: str, other: str, same: bool) -> None:
    found = typical(*counted([{one: 5, other: 4}, {"else": 1}]), 5)
    assert found[0] == ([one] if same else [one, other])


def test_topics_with_the_same_first_words_are_told_apart_by_the_next_ones() -> None:
    """Three topics about noodles: the largest keeps its name; whoever has nothing of its own keeps its words."""
    shared = {"noodle": 9, "ramen": 8, "soup": 7}
    topics = [
        shared | {"broth": 2},
        {name: 9 * count for name, count in shared.items()} | {"egg": 1},
        shared | {"spicy": 3},
        shared,
    ]
    found = typical(*counted(topics), 5)
    assert [words[0] for words in found[:3]] == ["broth", "noodle", "spicy"]
    assert set(found[3][:3]) == set(shared)
    first = [frozenset(words[:3]) for words in found[:3]]
    assert len(set(first)) == 3


def test_chinese_and_emoji_name_topics_too() -> None:
    found = typical(*counted([{"拉面": 3, "🍜": 2}, {"足球": 3, "⚽": 2}]), 5)
    assert found == [["拉面", "🍜"], ["足球", "⚽"]]
