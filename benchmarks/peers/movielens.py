"""MovieLens 100K as click prediction, twice: the Arrow tables that `prepare` takes, and the plain columns that the peers take.

A rating from 4 on is a click. The log is cut by time, 80/10/10; values that no training rating has are number 0; a history holds
the films clicked before the impression. The two forms are made apart, so that `ours.py` can hold one against the other.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

RATING = ["user", "film", "rating", "at"]
PERSON = ["user", "age", "gender", "occupation", "zip_code"]
CLICK = 4
SHARES = (0.8, 0.9)  # of the log, where validation and test begin


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Ratings in time order, people, and films with their `year` (or None) and list of `genres`; all values but times are text."""
    ratings = pd.read_csv(folder / "u.data", sep="\t", names=RATING, dtype={"user": str, "film": str})
    people = pd.read_csv(folder / "u.user", sep="|", names=PERSON, dtype=str)
    genres = pd.read_csv(folder / "u.genre", sep="|", names=["genre", "column"])["genre"].tolist()
    film = ["film", "title", "released", "video_released", "url", *genres]
    films = pd.read_csv(folder / "u.item", sep="|", names=film, encoding="latin-1", dtype={"film": str})
    films["year"] = films["released"].str[-4:].astype(object).where(films["released"].notna(), None)
    # The first column, "unknown", says that no genre is known.
    films["genres"] = [[genre for genre, has in zip(genres[1:], row, strict=True) if has] for row in films[genres[1:]].to_numpy()]
    return ratings.sort_values("at", kind="stable", ignore_index=True), people, films


def tables(folder: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Interactions, items and users, in `prepare`'s names."""
    ratings, people, films = read(folder)
    text = pa.string()
    interactions = pa.table(
        {
            "user_id": pa.array(ratings["user"], text),
            "video_id": pa.array(ratings["film"], text),
            "shown_at": pa.array(ratings["at"] * 1000),
            "clicked": pa.array(ratings["rating"] >= CLICK),
        }
    )
    items = pa.table(
        {
            "video_id": pa.array(films["film"], text),
            "tags": pa.array(films["genres"].tolist(), pa.list_(text)),
            "year": pa.array(films["year"], text),
        }
    )
    users = pa.table({"user_id": pa.array(people["user"], text)} | {name: pa.array(people[name], text) for name in PERSON[1:4]})
    return interactions, items, users


def rows(folder: Path, history: int, copies: int = 1) -> dict[str, np.ndarray]:
    """`SPLIT.FIELD` and `SPLIT.label` for each split, and `size.FIELD`; the training rows `copies` times over."""
    ratings, people, films = read(folder)
    cuts = ratings["at"].to_numpy()[[int(len(ratings) * share) for share in SHARES]]
    begins, ends = [0, *np.searchsorted(ratings["at"], cuts)], [*np.searchsorted(ratings["at"], cuts), len(ratings)]
    log = ratings.merge(people, on="user", how="left").merge(films[["film", "year", "genres"]], on="film", how="left")
    columns: dict[str, np.ndarray] = {}
    known: dict[str, dict[str, int]] = {}
    for name in ("user", "age", "gender", "occupation", "film", "year"):
        known[name] = _numbered(log[name][: ends[0]].dropna())
        columns[name] = log[name].map(known[name]).fillna(0).to_numpy(np.int64)
    known["genres"] = _numbered(log["genres"][: ends[0]].explode().dropna())
    columns["genres"] = _padded([[known["genres"].get(genre, 0) for genre in film] for film in log["genres"]])
    clicked = log["rating"] >= CLICK
    columns["history"], columns["history_length"] = _histories(log["user"], columns["film"], log["at"], clicked, history)
    columns["label"] = clicked.to_numpy(np.int64)
    stored = {f"size.{name}": np.array(len(numbers) + 1) for name, numbers in known.items()}
    for split, begin, end in zip(("train", "validation", "test"), begins, ends, strict=True):
        times = copies if split == "train" else 1
        stored |= {f"{split}.{name}": np.concatenate([column[begin:end]] * times) for name, column in columns.items()}
    return stored


def _numbered(values: pd.Series) -> dict[str, int]:
    return {value: number for number, value in enumerate(sorted(values.unique()), 1)}


def _padded(lists: list[list[int]]) -> np.ndarray:
    padded = np.zeros((len(lists), max(map(len, lists))), np.int64)
    for row, values in enumerate(lists):
        padded[row, : len(values)] = values
    return padded


def _histories(
    users: pd.Series, films: np.ndarray, times: pd.Series, clicked: pd.Series, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The latest clicks of each row's user strictly before the row's time, oldest first, 0 behind; and how many there are."""
    histories, counts = np.zeros((len(users), length), np.int64), np.zeros(len(users), np.int64)
    clicks: dict[str, list[tuple[int, int]]] = {}
    for row, (user, film, at, click) in enumerate(zip(users, films, times, clicked, strict=True)):
        before = [clicked_film for clicked_film, clicked_at in clicks.get(user, ()) if clicked_at < at][-length:]
        histories[row, : len(before)], counts[row] = before, len(before)
        if click:
            clicks.setdefault(user, []).append((film, at))
    return histories, counts
