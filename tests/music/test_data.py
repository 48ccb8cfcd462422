"""What the model reads of the tables: the latest ratings, numbered users and tracks, and the content that it asks for."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.errors import DataError
from rayrec.features.yamnet.spectrogram import BANDS, PATCH
from rayrec.music.data import read_music_data
from rayrec.tables import TableError, from_columns
from tests.music.rated import settings

RATINGS = {
    "user_id": ["b", "a", "b", "b", "c"],
    "track_id": ["t2", "t1", "t1", "t2", "t1"],
    "rating": [1.0, 2.0, 3.0, 4.0, 5.0],
    "rated_at": [9, 5, None, 7, 6],
}


class Tables:
    """Tables in memory, as a workspace reads them."""

    def __init__(self, **tables: pa.Table) -> None:
        self.tables = tables

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        return self.tables[table]

    def read_if_there(self, table: str, columns: list[str] | None = None) -> pa.Table | None:
        return self.tables.get(table)


@pytest.fixture
def tables() -> Tables:
    titles = ["blue rain", "blue sky", "red sky"]
    return Tables(
        tracks=from_columns("tracks", {"track_id": ["t1", "t2", "t3"], "title": titles}),
        ratings=from_columns("ratings", RATINGS),
        users=from_columns("users", {"user_id": ["a", "b", "c", "d", "e", "f"], "mood": list("xxxxxy")}),
    )


def test_the_latest_rating_of_a_user_and_a_track_counts(tables: Tables) -> None:
    data = read_music_data(tables, settings(users="none", tracks="words"))
    assert data.users.to_pylist() == ["a", "b", "c", "d", "e", "f"]  # those without ratings too
    found = {
        (data.users[u - 1].as_py(), data.tracks[t - 1].as_py()): r
        for u, t, r in zip(data.ratings.user, data.ratings.item, data.ratings.rating.tolist(), strict=True)
    }
    assert found == {("b", "t1"): 3, ("a", "t1"): 2, ("c", "t1"): 5, ("b", "t2"): 1}
    assert data.facts_UF.shape == (7, 0)
    assert data.words_TL.tolist() == [[0, 0], [1, 0], [1, 2], [2, 0]]


def test_facts_are_the_values_that_several_users_have(tables: Tables) -> None:
    data = read_music_data(tables, settings(users="sdae", tracks="none"))
    assert data.facts_UF.tolist() == [[0], [1], [1], [1], [1], [1], [0]]
    assert data.words_TL.shape == (4, 0)


def test_users_without_facts_are_refused_with_what_to_change(tables: Tables) -> None:
    del tables.tables["users"]
    with pytest.raises(DataError, match=r"music.users: sdae reads the columns of the table users.*set music.users=none"):
        read_music_data(tables, settings(users="sdae", tracks="none"))


def test_patches_have_zeros_behind_them_and_tracks_without_sound_have_none(tables: Tables) -> None:
    heard = np.arange(2 * PATCH * BANDS, dtype=np.float16).reshape(2, PATCH, BANDS)
    columns = {
        "track_id": ["t1", "t2", "t3"],
        "status": ["ok", "failed", "ok"],
        "patches": [heard.tobytes(), None, heard[:1].tobytes()],
    }
    sounds = from_columns("track_features", columns)
    data = read_music_data(tables, settings(users="none", tracks="sound"), sounds)
    assert data.patch_count_T.tolist() == [0, 2, 0, 1]
    np.testing.assert_array_equal(data.patches_TP[1], heard)
    np.testing.assert_array_equal(data.patches_TP[3, 0], heard[0])
    assert not data.patches_TP[[0, 2]].any()
    with pytest.raises(DataError, match=r"music.tracks: sound reads the sounds.*set music.tracks=words"):
        read_music_data(tables, settings(users="none", tracks="sound"), sounds.filter(pa.array([False, True, False])))


def test_a_rating_that_is_not_finite_never_comes_so_far() -> None:
    with pytest.raises(TableError, match="'rating', row 0: nan is not a finite number"):
        from_columns("ratings", {"user_id": ["a"], "track_id": ["t"], "rating": [float("nan")]})
