"""The section `dataset`: where the catalog and the log come from."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from rayrec.config.base import Count, Section


class WorldData(Section):
    """The synthetic world of `datasets/synthetic/`: real mp4 files, and a log of simulated people."""

    kind: Literal["world"] = "world"
    videos: Annotated[int, Field(ge=12)] = 480
    users: Count = 600
    topics: Annotated[int, Field(ge=2, le=24)] = 24  # `datasets/synthetic/words.py` has words for 24 topics
    days: Annotated[int, Field(ge=2)] = 7
    requests: Count = 7200  # pages of ten impressions
    picture: Annotated[int, Field(ge=64, multiple_of=16)] = 128  # side of the square picture, in pixels
    fps: Count = 12

    @model_validator(mode="after")
    def _enough_requests(self) -> "WorldData":
        if self.requests < 2 * self.users:
            raise ValueError(f"requests={self.requests} are too few for users={self.users}: set at least two requests per user")
        return self


class MovieLensData(Section):
    """MovieLens 100K as GroupLens publishes it."""

    kind: Literal["movielens"]
    path: str  # the folder that holds u.data, u.item and u.user
    click_at_least: float = 4  # the lowest rating that counts as a click


class YouTubeData(Section):
    """Kaggle's table of YouTube videos that trended in 2017: titles, tags and categories, but neither media nor a log."""

    kind: Literal["youtube"]
    path: str  # the file USvideos.csv


class FilesData(Section):
    """Any catalog and log in Parquet, CSV or JSON lines; the README explains it under "Bring your own data"."""

    kind: Literal["files"]
    # A table, or a folder of videos, each of which becomes a row. Further tables may follow it, such as what `rayrec videos export`
    # writes.
    catalog: str | Annotated[list[str], Field(min_length=1)]
    # One or several files or folders, among them what `rayrec events export` writes. The stages from `train` on need a log.
    interactions: str | list[str] | None = None
    users: str | None = None
    # Our column names -> yours, where they differ.
    catalog_columns: dict[str, str] = {}
    interactions_columns: dict[str, str] = {}
    users_columns: dict[str, str] = {}
    media_root: str | None = None  # the folder that relative uris start from; the default is the folder of the catalog
    list_separator: str = "|"  # splits `tags` where they are plain text
    time_unit: Literal["s", "ms", "us"] = "ms"  # of times that are numbers; dates and timestamps need no unit
    click_at_least: float | None = None  # the lowest number that counts as a click, where `clicked` is a rating or seconds watched


# The reader of a kind is the module of that name in `rayrec/datasets/`.
AnyDataset = WorldData | MovieLensData | FilesData | YouTubeData
DATASETS: dict[str, type[Section]] = {
    get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(AnyDataset)
}
