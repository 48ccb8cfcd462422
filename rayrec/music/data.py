"""What the model of ratings learns from: who rated which track, and what is known of users and tracks beside it.

Users and tracks are numbered from 1; 0 is a user of whom nothing is known, and no track.
Shapes: U users, T tracks (both count number 0), F facts, L words of a track, P patches of a sound.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.collaborative.facts import facts_of
from rayrec.collaborative.ratings import Ratings
from rayrec.config import Music
from rayrec.data.errors import DataError
from rayrec.data.loading import TableReader
from rayrec.data.vocabulary import indices_of
from rayrec.features.yamnet.spectrogram import BANDS, PATCH
from rayrec.music.words import track_words
from rayrec.tables import TEXT


@dataclass(frozen=True)
class MusicData:
    """Ratings with users and tracks; of their content only what the model reads has rows."""

    users: pa.Array  # ids from number 1 on
    tracks: pa.Array
    ratings: Ratings  # the latest one for each pair
    facts_UF: np.ndarray = field(repr=False)  # float32, 1 for each fact that holds
    words_TL: np.ndarray = field(repr=False)  # int64, 0 behind the last word
    patches_TP: np.ndarray = field(repr=False)  # float16 [T, P, PATCH, BANDS]
    patch_count_T: np.ndarray = field(repr=False)  # int64; 0 for a track without sound


def read_music_data(reader: TableReader, settings: Music, sounds: pa.Table | None = None) -> MusicData:
    """All of it, in memory; `sounds` are the patches of `track_features`, where the model reads them.

    Raises `DataError` where it reads something that no user or no track has.
    """
    tracks, ratings = reader.read("tracks"), in_time_order(reader.read("ratings"))
    people = reader.read_if_there("users")
    known = [ratings["user_id"], *([people["user_id"]] if people is not None else [])]
    users = pc.unique(pa.chunked_array([chunk for column in known for chunk in column.cast(TEXT).chunks], TEXT)).sort()
    ids = tracks["track_id"].combine_chunks()
    found = Ratings.of(
        indices_of(ratings["user_id"], users, 1), indices_of(ratings["track_id"], ids, 1), ratings["rating"].to_numpy()
    )
    return MusicData(
        users,
        ids,
        found,
        user_facts(people, users) if settings.users == "sdae" else np.zeros((len(users) + 1, 0), np.float32),
        track_words(tracks, settings.words) if settings.tracks == "words" else np.zeros((len(ids) + 1, 0), np.int64),
        *sound_patches(sounds, ids),
    )


def in_time_order(ratings: pa.Table) -> pa.Table:
    """Ratings without a time come first."""
    times = ratings["rated_at"].fill_null(-1).to_numpy()
    return ratings.take(pa.array(np.argsort(times, kind="stable")))


def user_facts(people: pa.Table | None, users: pa.Array) -> np.ndarray:
    """float32 [U, F] of all columns of the table `users`. Raises `DataError` if none says anything of several users."""
    columns = [name for name in people.column_names if name != "user_id"] if people is not None else []
    facts_UF = facts_of(people, "user_id", columns, users)
    if not facts_UF.shape[1]:
        raise DataError(
            "music.users: sdae reads the columns of the table users, but no value there is common to several of them; give "
            "`dataset.users` columns such as age or tags, or set music.users=none"
        )
    return facts_UF


def sound_patches(sounds: pa.Table | None, tracks: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The patches of each track, with zeros behind them, and their number. Raises `DataError` if no track has a sound."""
    count_T = np.zeros(len(tracks) + 1, np.int64)
    if sounds is None:
        return np.zeros((len(tracks) + 1, 0, PATCH, BANDS), np.float16), count_T
    heard = sounds.filter(pc.is_valid(sounds["patches"]))
    if not heard.num_rows:
        raise DataError(
            "music.tracks: sound reads the sounds of the tracks, but none could be read; give the table tracks a column uri "
            "(`rayrec rejects CONFIG` says why a file was not read), or set music.tracks=words"
        )
    track_N = indices_of(heard["track_id"], tracks, 1)
    patches = [np.frombuffer(value.as_buffer(), np.float16).reshape(-1, PATCH, BANDS) for value in heard["patches"]]
    count_T[track_N] = [len(each) for each in patches]
    patches_TP = np.zeros((len(tracks) + 1, count_T.max(), PATCH, BANDS), np.float16)
    for track, each in zip(track_N, patches, strict=True):
        patches_TP[track, : len(each)] = each
    return patches_TP, count_T
