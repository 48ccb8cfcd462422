"""The section `dataset`: where the catalog and the log come from."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from rayrec.config.base import Count, Section, Share


class SimulatedData(Section):
    """What the data sets that simulate people have in common."""

    videos: Annotated[int, Field(ge=12)] = 480
    users: Count = 600
    days: Annotated[int, Field(ge=2)] = 7
    requests: Count = 7200  # pages of ten impressions
    misleading: Share = 0.12  # share of the videos whose picture shows another topic, as many whose sound does, and whose words do
    picture: Annotated[int, Field(ge=64, multiple_of=16)] = 256  # side of the square picture, in pixels
    fps: Count = 12

    @model_validator(mode="after")
    def _enough_requests(self) -> "SimulatedData":
        if self.requests < 2 * self.users:
            raise ValueError(f"requests={self.requests} are too few for users={self.users}: set at least two requests per user")
        return self


class WorldData(SimulatedData):
    """The synthetic world of `datasets/synthetic/`: real mp4 files, and a log of simulated people."""

    kind: Literal["world"] = "world"
    topics: Annotated[int, Field(ge=2, le=24)] = 24  # `datasets/synthetic/words.py` has words for 24 topics


class SlideshowData(SimulatedData):
    """Short clips of your own pictures and sounds, made from a folder for each class, and a log of simulated people."""

    kind: Literal["slideshow"]
    pictures: str  # a folder with a subfolder of pictures for each class
    sounds: str  # a folder with a subfolder of sounds for each class
    # Class of pictures -> class of sounds. The others are paired by equal names, and the rest in the order of the alphabet.
    sound_classes: dict[str, str] = {}
    # Class of pictures -> the words of its titles and tags; the default is the names of both folders.
    words: dict[str, list[str]] = {}
    described: Share = 0.5  # share of the titles whose words tell the class, and share of the lists of tags that do
    # The pictures and sounds of each class are dealt into so many folds. A clip is made from one fold, which the catalog names.
    folds: Annotated[int, Field(ge=2)] = 5
    pictures_per_clip: Count = 3
    misleading: Share = 0


class MovieLensData(Section):
    """MovieLens 100K as GroupLens publishes it."""

    kind: Literal["movielens"]
    path: str  # the folder that holds u.data, u.item and u.user
    click_at_least: float = 4  # the lowest rating that counts as a click
    # One of the splits that it is published with: u1 reads u1.base and u1.test in place of u.data. Their times are then not used.
    split: Literal["u1", "u2", "u3", "u4", "u5", "ua", "ub"] | None = None


class YouTubeData(Section):
    """Kaggle's table of YouTube videos that trended in 2017: titles, tags and categories, but neither media nor a log."""

    kind: Literal["youtube"]
    path: str  # the file USvideos.csv


class ClickRule(Section):
    """What a click is in a log that says for how long videos were watched. One of the two is given."""

    watch_share: Annotated[float, Field(gt=0)] | None = None  # of the video's `duration_s`, from this share on
    watch_s: Annotated[float, Field(gt=0)] | None = None  # from so many seconds on

    @model_validator(mode="after")
    def _one_rule(self) -> "ClickRule":
        if (self.watch_share is None) == (self.watch_s is None):
            raise ValueError("give either watch_share or watch_s")
        return self


class FilesData(Section):
    """Any catalog and log in Parquet, CSV or JSON lines; the README explains it under "Bring your own data"."""

    kind: Literal["files"]
    # A table, or a folder of videos, each of which becomes a row. Further tables may follow it, such as what `rayrec videos export`
    # writes.
    catalog: str | Annotated[list[str], Field(min_length=1)]
    # One or several files or folders, among them what `rayrec events export` writes. The stages from `train` on need a log.
    interactions: str | list[str] | None = None
    # One or several files or folders, among them what `rayrec users export` writes, whose row of a user counts.
    users: str | list[str] | None = None
    # Our column names -> yours, where they differ.
    catalog_columns: dict[str, str] = {}
    interactions_columns: dict[str, str] = {}
    users_columns: dict[str, str] = {}
    media_root: str | None = None  # the folder that relative uris start from; the default is the folder of the catalog
    list_separator: str = "|"  # splits `tags` where they are plain text
    # Of times that are numbers; dates and timestamps need no unit. With auto, a number has the unit in which it is of after 1990.
    time_unit: Literal["auto", "s", "ms", "us"] = "auto"
    click_at_least: float | None = None  # the lowest number that counts as a click, where `clicked` is a rating or seconds watched
    click_rule: ClickRule | None = None  # makes `clicked` of `watch_s`
    split_column: str | None = None  # the column that says of each row whether it is for train, validation or test

    @model_validator(mode="after")
    def _one_label(self) -> "FilesData":
        if self.click_rule and (self.click_at_least is not None or "clicked" in self.interactions_columns):
            raise ValueError("click_rule says what a click is: remove click_at_least and the mapping of clicked")
        return self


class SplitsData(Section):
    """A log that was published with its split: files of users and items, without times that matter."""

    kind: Literal["splits"]
    train: str  # a row for each user and item, separated by tabs or commas
    validation: str | None = None  # without it, rows of each user are drawn from `train` (split.validation)
    test: str
    # What the columns are, in their order, in files without a header: user_id and video_id, and any of rating, watch_s and names of
    # your own.
    columns: list[str] = ["user_id", "video_id"]
    click_at_least: float | None = None  # the lowest rating that counts as a click; without ratings, every row does
    # A column of the catalog -> a file (.npy) of vectors, whose rows belong to the videos 0, 1, 2, ...
    features: dict[str, str] = {}

    @model_validator(mode="after")
    def _user_and_video(self) -> "SplitsData":
        for name in ("user_id", "video_id"):
            if name not in self.columns:
                raise ValueError(f"columns must name {name}; rename the one that has it")
        return self


# The reader of a kind is the module of that name in `rayrec/datasets/`.
AnyDataset = WorldData | SlideshowData | MovieLensData | FilesData | SplitsData | YouTubeData
DATASETS: dict[str, type[Section]] = {
    get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(AnyDataset)
}
