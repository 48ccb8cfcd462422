"""A little world of ratings: what a user and a track are decides, with some noise, how a user rates a track."""

import numpy as np
import pyarrow as pa

from rayrec.collaborative.ratings import Ratings
from rayrec.config import Music
from rayrec.features.yamnet.spectrogram import BANDS, PATCH
from rayrec.music.data import MusicData
from rayrec.tables import TEXT

KINDS = 4  # of users, and of tracks
WORDS = 2  # of a track: one of its kind, and a common one


def settings(**options: object) -> Music:
    data = {"kind": "files", "tracks": "tracks.csv", "ratings": "ratings.csv"}
    small = {
        "size": 3,
        "batch_size": 64,
        "epochs": 4,
        "learning_rate": 0.02,
        "weight_decay": 1e-5,
        "user_penalty": 0.5,
        "track_penalty": 0.5,
        "sdae": {"hidden": [5]},
        "words": {"embedding": 4, "filters": 3, "windows": [1, 2]},
        "sound": {"patches": 2, "channels": [2, 3]},
    }
    return Music.model_validate({"data": data} | small | options)


def world(users: int = 40, tracks: int = 32, share: float = 0.5, seed: int = 3) -> MusicData:
    """User u is of the kind u modulo KINDS, and so is a track. Ratings are 4.5 for one's own kind and 2.5 for others, and noise."""
    random = np.random.default_rng(seed)
    user_N, track_N = np.nonzero(random.random((users, tracks)) < share)
    user_N, track_N = user_N + 1, track_N + 1
    rating_N = np.where(user_N % KINDS == track_N % KINDS, 4.5, 2.5) + random.normal(0, 0.2, len(user_N))
    kind_U, kind_T = np.arange(users + 1) % KINDS, np.arange(tracks + 1) % KINDS
    facts_UF, words_TL = np.zeros((users + 1, KINDS), np.float32), np.zeros((tracks + 1, WORDS), np.int64)
    facts_UF[np.arange(1, users + 1), kind_U[1:]] = 1
    words_TL[1:] = np.stack([1 + kind_T[1:], np.full(tracks, KINDS + 1)], axis=1)
    patches_TP = random.normal(-3, 0.3, (tracks + 1, 2, PATCH, BANDS)).astype(np.float16)
    for track in range(1, tracks + 1):
        band = 8 + 16 * int(kind_T[track])
        patches_TP[track, :, :, band : band + 4] += 3  # a hum of its kind
    return MusicData(
        pa.array([f"u{user}" for user in range(1, users + 1)], TEXT),
        pa.array([f"t{track}" for track in range(1, tracks + 1)], TEXT),
        Ratings.of(user_N, track_N, rating_N),
        facts_UF,
        words_TL,
        patches_TP,
        np.where(np.arange(tracks + 1) > 0, 2, 0),
    )
