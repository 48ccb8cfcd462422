"""Words and tags that mark a topic."""

import numpy as np
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
