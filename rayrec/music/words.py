"""The words of tracks as numbers: those of the title, then the artist, then the tags."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import WordNetwork
from rayrec.data.errors import DataError
from rayrec.retrieval.words import split_words
from rayrec.tables import TEXT

MIN_TRACKS = 2  # that a word of the vocabulary is in; one track's own word says no more than the track


def track_words(tracks: pa.Table, settings: WordNetwork) -> np.ndarray:
    """The numbers of each track's words from row 1 on, in their order, with zeros behind them: int64 [tracks + 1, L].

    Raises `DataError` if no two tracks have a word in common.
    """
    space = pa.scalar(" ", TEXT)
    tags = pc.binary_join(tracks["tags"].combine_chunks(), space)
    texts = [column.fill_null("") for column in (tracks["title"].combine_chunks(), tracks["artist"].combine_chunks(), tags)]
    words = split_words(pc.binary_join_element_wise(*texts, space)).to_pylist()
    counts = Counter(word for track in words for word in set(track))
    common = sorted((word for word, tracks in counts.items() if tracks >= MIN_TRACKS), key=lambda word: (-counts[word], word))
    number = {word: place for place, word in enumerate(common[: settings.max_words], 1)}
    if not number:
        raise DataError(
            "music.tracks: words reads titles, artists and tags, but no two tracks have a word in common; give the table tracks "
            "such columns, or set music.tracks=none"
        )
    found = [[number[word] for word in track if word in number][: settings.length] for track in words]
    words_TL = np.zeros((len(words) + 1, max(map(len, found))), np.int64)
    for row, track in enumerate(found, 1):
        words_TL[row, : len(track)] = track
    return words_TL
