"""What the service needs of the model: a vector for each user and each track, whose product is the rating, and its record.

A user's vector is (b_u, 1, p_u) and a track's is (1, c_t, q_t), so that mean + user vector . track vector is the predicted rating
before it is cut to the range.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.music.data import MusicData
from rayrec.music.pmf import MAE, RMSE, Vectors
from rayrec.tables import TEXT, VECTOR, validate
from rayrec.training.callbacks import Epoch


def track_table(data: MusicData, vectors: Vectors) -> pa.Table:
    """The rows of `music_tracks`."""
    track_TV = vectors.track_TV[1:]
    return validate("music_tracks", pa.table({"track_id": data.tracks, "vector": _lists(_with_one(track_TV, 0))}))


def user_table(data: MusicData, vectors: Vectors) -> pa.Table:
    """The rows of `music_users`. The first one, of the user "", is of whomever nothing is known."""
    ids = pa.concat_arrays([pa.array([""], TEXT), data.users.cast(TEXT)])
    return validate("music_users", pa.table({"user_id": ids, "vector": _lists(_with_one(vectors.user_UV, 1))}))


def record_of(vectors: Vectors, epochs: list[Epoch]) -> dict[str, Any]:
    """The mean and the range of the ratings, and the errors on those that were held out, if there were some."""
    best = min(epochs, key=lambda epoch: epoch.metrics.get(RMSE, 0.0))
    return {
        "mean": vectors.mean,
        "low": vectors.low,
        "high": vectors.high,
        "size": vectors.user_UV.shape[1] + 1,
        "metrics": {name: best.metrics[name] for name in (RMSE, MAE) if name in best.metrics},
    }


def _with_one(rows: np.ndarray, place: int) -> np.ndarray:
    """The rows with a 1 before the number at this place."""
    return np.insert(rows, place, 1, axis=1)


def _lists(matrix: np.ndarray) -> pa.Array:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ravel(matrix), VECTOR.value_type))
