"""Reads MovieLens 100K as GroupLens publishes it: u.data (ratings) or one of its splits, u.item (films) and u.user (people).

The README in its archive describes the format. A rating is an impression, and a click if it is at least `click_at_least`. It is
unknown which films were shown and not rated, so the log has no requests, and its share of clicks is far above that of a feed. A
film has up to six genres in no particular order. They become tags; both classes stay empty, because a genre picked by chance would
mislead. Films have no media.
"""

import re
from datetime import UTC, datetime

import pyarrow as pa

from rayrec.config import MovieLensData, SplitsData
from rayrec.datasets.conversion import Conventions, convert_rows
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.delimited import read_csv
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Source
from rayrec.datasets.splits import log_of
from rayrec.tables import TEXT, TIME
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import join_uri

# In the order of the last 19 columns of u.item. The first means that no genre is known.
GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
FILM_COLUMNS = ["movie_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES]
RATING_COLUMNS = ["user_id", "movie_id", "rating", "timestamp"]
PERSON_COLUMNS = ["user_id", "age", "gender", "occupation", "zip_code"]


def read(settings: MovieLensData, run: StageRun) -> RawDataset:
    """The catalog, the log and the users of the folder. Raises `TableError` when a file can't be read."""
    films, people, *ratings = files(settings)
    if settings.split:
        columns = ["user_id", "video_id", "rating", "shown_at"]
        train, test = ratings
        split = SplitsData(kind="splits", train=train, test=test, columns=columns, click_at_least=settings.click_at_least)
        log, _ = log_of(split)
    else:
        log = Source.of(_ratings(read_csv(ratings[0], RATING_COLUMNS, "\t", quotes=False), settings.click_at_least))
    return RawDataset(
        Source.of(_films(read_csv(films, FILM_COLUMNS, "|", encoding="latin1", quotes=False))),
        log,
        Source.of(_people(read_csv(people, PERSON_COLUMNS, "|", encoding="latin1", quotes=False))),
    )


def files(settings: MovieLensData) -> list[str]:
    """The paths of films, people and ratings, the latter of a split in two files."""
    ratings = [f"{settings.split}.base", f"{settings.split}.test"] if settings.split else ["u.data"]
    return [join_uri(settings.path, name) for name in ("u.item", "u.user", *ratings)]


def music_of(films: str, ratings: str) -> tuple[Source, Source]:
    """The films as tracks, and their ratings, from these files. Raises `TableError` when one can't be read."""
    catalog = _films(read_csv(films, FILM_COLUMNS, "|", encoding="latin1", quotes=False))
    catalog.table = catalog.table.select(["video_id", "title", "tags"]).rename_columns(["track_id", "title", "tags"])
    ours = {"user_id": "user_id", "track_id": "movie_id", "rating": "rating", "rated_at": "timestamp"}
    points = convert_rows("ratings", read_csv(ratings, RATING_COLUMNS, "\t", quotes=False), ours, Conventions(time_unit="s"))
    return Source.of(catalog), Source.of(points)


def _ratings(raw: SourceTable, click_at_least: float) -> SourceTable:
    ours = {"user_id": "user_id", "video_id": "movie_id", "shown_at": "timestamp", "clicked": "rating", "rating": "rating"}
    return convert_rows("interactions", raw, ours, Conventions(time_unit="s", click_at_least=click_at_least))


def _people(raw: SourceTable) -> SourceTable:
    # The zip code is left out: 943 people have 795 of them, so that it names a person rather than describes one.
    return convert_rows("users", raw, {column: column for column in PERSON_COLUMNS if column != "zip_code"}, Conventions())


def _films(raw: SourceTable) -> SourceTable:
    films = raw.table.cast(pa.schema([(name, TEXT) for name in FILM_COLUMNS])).to_pylist()
    reasons: dict[int, str] = {}
    published: list[int | None] = []
    for row, film in enumerate(films):
        try:
            published.append(_published_at(film["release_date"]))
        except ValueError:
            reasons[row] = f"release_date: {film['release_date']!r} is not a date such as 01-Jan-1995"
            published.append(None)
    columns = {
        "video_id": pa.array([film["movie_id"] for film in films], TEXT),
        "title": pa.array([_title(film["title"]) for film in films], TEXT),
        "tags": pa.array([[genre for genre in GENRES[1:] if film[genre] == "1"] for film in films], pa.list_(TEXT)),
        "published_at": pa.array(published, TIME),
    }
    catalog = SourceTable(raw.source, pa.table(columns), raw.rows, raw.rejected)
    catalog.reject(reasons, "video_id")
    return catalog


def _title(title: str | None) -> str | None:
    """`Usual Suspects, The (1995)` -> `The Usual Suspects`. The release date has the year."""
    if title is None:
        return None
    words = re.sub(r"\s*\(\d{4}\)\s*$", "", title)
    return re.sub(r"^(.*), (The|A|An)$", r"\2 \1", words)


def _published_at(date: str | None) -> int | None:
    """The UTC ms of a date such as 01-Jan-1995. None for no date, and for one before 1970, where our times begin."""
    if date is None:
        return None
    moment = datetime.strptime(date, "%d-%b-%Y").replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000) if moment.year >= 1970 else None


DATASET = Dataset(read, files)
