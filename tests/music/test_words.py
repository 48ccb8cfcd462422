"""The words of tracks: those that several tracks have, in their order."""

import pyarrow as pa
import pytest

from rayrec.config import WordNetwork
from rayrec.data.errors import DataError
from rayrec.music.words import track_words
from rayrec.tables import from_columns


def tracks(titles: list[str | None], tags: list[list[str] | None], artists: list[str | None]) -> pa.Table:
    ids = [f"t{number}" for number in range(len(titles))]
    return from_columns("tracks", {"track_id": ids, "title": titles, "tags": tags, "artist": artists})


def test_common_words_are_numbered_by_how_many_tracks_have_them() -> None:
    table = tracks(["Blue rain", "Rain, rain!", None], [["jazz", "Blue"], None, ["jazz"]], ["Ann", "Bob", "Ann"])
    # Only one track has "blue", and has it twice. The others are in two tracks each, and numbered by the alphabet.
    assert track_words(table, WordNetwork()).tolist() == [[0, 0, 0], [3, 1, 2], [3, 3, 0], [1, 2, 0]]


def test_the_vocabulary_and_the_length_have_limits() -> None:
    table = tracks(["a1 b1 c1", "a1 b1", "a1 c1 b1"], [None] * 3, [None] * 3)
    assert track_words(table, WordNetwork(max_words=2)).tolist() == [[0, 0], [1, 2], [1, 2], [1, 2]]
    assert track_words(table, WordNetwork(length=1)).tolist() == [[0], [1], [1], [1]]


def test_tracks_without_a_common_word_are_refused_with_what_to_change() -> None:
    with pytest.raises(DataError, match=r"music.tracks: words reads titles.*set music.tracks=none"):
        track_words(tracks(["One", "Two"], [None, None], [None, None]), WordNetwork())
