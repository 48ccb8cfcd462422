"""Music for a video and a user: what a bundle holds of it, and which tracks go with both. It needs no torch.

    music/tracks.arrow   a row for each track: what is known of it, its vector, and where its sound is in the space of search
    music/users.arrow    the vector of each user, sorted by user id; the one of "" stands for all of whom nothing is known
    music/scale.arrow    one row: the mean of all ratings, and the lowest and the highest rating that there may be

The rating that a user is predicted to give a track is mean + user vector . track vector, within the scale (Mnih & Salakhutdinov,
"Probabilistic Matrix Factorization", 2007). A track fits a video by (1 + cosine) / 2 of the two in the space of search, and its
score is the product of rating and fit; where a scale begins below zero, ratings count from its lowest one. Where one of the two
is not in that space, nothing is known of the fit: a track counts as fitting as the mean of the others does, and for a video the
scores are the ratings.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Config
from rayrec.tables import TEXT, TableError
from rayrec.workspace.files import from_json, read_whole
from rayrec.workspace.stage import StageRun

TRACKS, USERS, SCALE = "music/tracks", "music/users", "music/scale"
FACTS = {"track_id": TEXT, "title": TEXT, "artist": TEXT, "uri": TEXT}
FLOATS = pa.large_list(pa.float32())
TABLES = {
    # The place of the sound has length 1; it is zero for a track whose sound is not known, and null in all rows without a space.
    TRACKS: pa.schema(FACTS | {"vector": FLOATS, "space_vector": FLOATS}),
    USERS: pa.schema({"user_id": TEXT, "vector": FLOATS}),
    SCALE: pa.schema({"mean": pa.float64(), "low": pa.float64(), "high": pa.float64()}),
}
MAY_READ = ("tracks", "music_tracks", "music_users", "track_features")  # of the stage `publish`
NOBODY = ""  # the user of whom nothing is known
SOUND = "audio"  # the modality


class Best(NamedTuple):
    """Tracks by their rows, the best first: int64 and float32 [k]."""

    rows: np.ndarray
    scores: np.ndarray
    fits: np.ndarray  # NaN where nothing is known of it
    ratings: np.ndarray


@dataclass(frozen=True)
class Music:
    """Music of one bundle: T tracks, D numbers of a vector of the model, S of one of the space of search, I items with item 0."""

    tracks: pa.Table
    users: pa.Table
    mean: float
    low: float
    high: float
    videos: np.ndarray | None = None  # [I - 1, S], the place of item i in row i - 1, zeros for one that has none; None: no space

    @classmethod
    def of(cls, tables: Mapping[str, pa.Table], videos: np.ndarray | None) -> Self | None:
        """From the tables of `TABLES`; None without them."""
        if SCALE not in tables:
            return None
        return cls(tables[TRACKS], tables[USERS], **tables[SCALE].to_pylist()[0], videos=videos)

    def best(self, user_id: str, place: np.ndarray | None, k: int) -> Best:
        """The k tracks with the highest scores (fewer if there are no more), of equals the one with the lower row.

        `place` is where the video is in the space of search [S], of length 1, or None.
        """
        ratings, fits = self.ratings(user_id), self.fits(place)
        known = ~np.isnan(fits)
        above = ratings - np.float32(min(self.low, 0))  # a better fit must never make a score lower
        scores = above * np.where(known, fits, fits[known].mean()) if known.any() else ratings
        k = min(k, len(scores))
        chosen = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if k else np.empty(0, np.int64)
        rows = chosen[np.argsort(-scores[chosen], kind="stable")][:k]
        return Best(rows, scores[rows], fits[rows], ratings[rows])

    def ratings(self, user_id: str) -> np.ndarray:
        """What the user is predicted to give each track, float32 [T]; an unknown user's are the mean user's."""
        return np.clip(self.mean + self._vectors @ self._user(user_id), self.low, self.high, dtype=np.float32)

    def fits(self, place: np.ndarray | None) -> np.ndarray:
        """How well each track fits a video, float32 [T] from 0 to 1; NaN where nothing is known of it."""
        sounds = self._sounds
        if place is None or sounds is None:
            return np.full(self.tracks.num_rows, np.nan, np.float32)
        found: np.ndarray = np.clip((1 + sounds @ place.astype(np.float32)) / 2, 0, 1)
        found[~self._has_sound] = np.nan
        return found

    def place_of(self, item: int) -> np.ndarray | None:
        """Where an item of the bundle is in the space of search, float32 [S] of length 1; None if it is not there."""
        if self.videos is None or not (place := self.videos[item - 1].astype(np.float32)).any():
            return None
        return cast(np.ndarray, place / np.linalg.norm(place))

    @property
    def has_space(self) -> bool:
        """Whether both videos and tracks are in the space of search."""
        return self.videos is not None and self._sounds is not None

    def facts_of(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """What is known of each of these tracks: the columns of `FACTS`."""
        return cast(list[dict[str, Any]], self.tracks.select(list(FACTS)).take(pa.array(rows)).to_pylist())

    def find(self, track_id: str) -> int | None:
        """The row of a track; None for an unknown one."""
        row = pc.index(self.tracks["track_id"], track_id).as_py()
        return row if row >= 0 else None

    @cached_property
    def _vectors(self) -> np.ndarray:
        return _matrix(self.tracks, "vector")

    @cached_property
    def _sounds(self) -> np.ndarray | None:
        """float32 [T, S]"""
        return None if self.tracks["space_vector"].null_count else _matrix(self.tracks, "space_vector")

    @cached_property
    def _has_sound(self) -> np.ndarray:
        """bool [T], if there is a space"""
        return np.asarray(self._sounds.any(axis=1) if self._sounds is not None else False)

    def _user(self, user_id: str) -> np.ndarray:
        """float32 [D]"""
        ids = self.users["user_id"].chunk(0)
        row = bisect_left(range(len(ids)), user_id, key=lambda row: ids[row].as_py())
        if row == len(ids) or ids[row].as_py() != user_id:
            row = 0  # NOBODY's, whose id sorts first
        return cast(np.ndarray, self.users["vector"].chunk(0)[row].values.to_numpy())


def settings(config: Config) -> dict[str, bool]:
    """What `publish` depends on, beside its tables."""
    return {"music": True} if config.music is not None else {}


def tables_of(run: StageRun) -> dict[str, pa.Table]:
    """The tables of `TABLES` for the bundle that `publish` makes.

    None unless the config has the section `music` and its stage has run. Raises `TableError` if the sounds of the tracks were not
    read as those of the videos.
    """
    if run.config.music is None or (known := run.read_if_there("music_tracks")) is None or not known.num_rows:
        return {}
    ids, users = known["track_id"].combine_chunks(), run.read("music_users")
    facts = _aligned(run.read_if_there("tracks", list(FACTS)), ids)
    record = from_json(read_whole(run.fs, f"{run.workspace.check('music')}/model/record.json"))
    return {
        TRACKS: pa.table(facts | {"track_id": ids, "vector": known["vector"].combine_chunks(), "space_vector": _places(run, ids)}),
        USERS: users.sort_by("user_id"),
        SCALE: pa.table({name: [float(record[name])] for name in TABLES[SCALE].names}),
    }


def _places(run: StageRun, ids: pa.Array) -> pa.Array:
    """Where the sound of each track is in the space of search; all null if there is no such space, or no sound is known in it."""
    features = run.read_if_there("track_features", ["track_id", SOUND])
    if features is None or not run.workspace.has("search_vectors"):
        return pa.nulls(len(ids), FLOATS)
    from rayrec.retrieval.inputs import inputs_of  # imports torch, which the ingress does not need
    from rayrec.retrieval.model import SearchModel

    model = SearchModel.load(run.fs, f"{run.workspace.check('search_index')}/model")
    inputs = inputs_of(pa.table(_aligned(features, ids)), [SOUND], None)
    if SOUND not in inputs.values or (size := model.space.sizes.get(SOUND)) is None:
        return pa.nulls(len(ids), FLOATS)
    if (found := inputs.values[SOUND].shape[1]) != size:
        raise TableError(
            f"table track_features, column {SOUND!r}: the sounds of the tracks are vectors of {found} numbers, but those of the "
            f"videos have {size}; run `rayrec music CONFIG --force`"
        )
    places = model.video_vectors(inputs)
    return pa.LargeListArray.from_arrays(np.arange(len(ids) + 1) * places.shape[1], places.ravel())


def _aligned(table: pa.Table | None, ids: pa.Array) -> dict[str, pa.Array]:
    """The columns of a table of tracks in the order of `ids`, null for those that are not in it; null facts without a table."""
    if table is None:
        return {name: pa.nulls(len(ids), kind) for name, kind in FACTS.items()}
    rows = pc.index_in(ids, value_set=table["track_id"].combine_chunks())
    return {name: table[name].combine_chunks().take(rows) for name in table.column_names}


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """A column of lists of one length as a matrix. Nothing is copied: the file has one batch."""
    return cast(np.ndarray, table[name].chunk(0).flatten().to_numpy().reshape(table.num_rows, -1))
