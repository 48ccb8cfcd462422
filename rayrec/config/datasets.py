"""The section `dataset`: where the catalog and the log come from."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayrec.config.base import Count, Section


class WorldData(Section):
    """The synthetic world of `datasets/world.py`: real mp4 files and a log of simulated people."""

    kind: Literal["world"] = "world"
    videos: Annotated[int, Field(ge=12)] = 480
    users: Count = 600
    topics: Annotated[int, Field(ge=2, le=24)] = 24  # `datasets/world_words.py` has words for 24
    days: Annotated[int, Field(ge=2)] = 7
    requests: Count = 7200  # pages of ten impressions
    picture: Annotated[int, Field(ge=64, multiple_of=16)] = 128  # side of the square picture, pixels
    fps: Count = 12

    @model_validator(mode="after")
    def _enough_requests(self) -> "WorldData":
        if self.requests < 2 * self.users:
            raise ValueError(f"requests={self.requests} are too few for users={self.users}: give each user two on average")
        return self


class MovieLensData(Section):
    """MovieLens 100K as its authors publish it: the folder with u.data, u.item and u.user."""

    kind: Literal["movielens"]
    path: str
    click_at_least: float = 4  # ratings from here on count as clicks


class YouTubeData(Section):
    """Kaggle's trending YouTube videos of 2017: titles, tags and categories, without media and without a log."""

    kind: Literal["youtube"]
    path: str  # of USvideos.csv


class FilesData(Section):
    """Any catalog and log in Parquet or CSV. See the README's "Bring your own data"."""

    kind: Literal["files"]
    catalog: str  # or a folder of videos, each of which is then a row
    # Needed from `train` on. Files or folders: also what `rayrec events export` writes, beside an older log.
    interactions: str | list[str] | None = None
    users: str | None = None
    # our column -> theirs, for columns that are named otherwise
    catalog_columns: dict[str, str] = {}
    interactions_columns: dict[str, str] = {}
    users_columns: dict[str, str] = {}
    media_root: str | None = None  # what relative `uri`s start from; the catalog's own folder when not given
    list_separator: str = "|"  # splits `tags` where they are plain text
    time_unit: Literal["s", "ms", "us"] = "ms"  # of times given as integers; dates and timestamps need no unit
    click_at_least: float | None = None  # when `clicked` is a number such as a rating or seconds watched


DATASETS: dict[str, type[Section]] = {"world": WorldData, "movielens": MovieLensData, "files": FilesData, "youtube": YouTubeData}
