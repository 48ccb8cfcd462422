"""One typed configuration tree: YAML in, `section.key=value` overrides on top, unknown keys refused with the nearest known name.

A config file states only what differs from the defaults below. Each stage sees its own section (and `seed`), so that changing one
section redoes only the stages that depend on it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from rayrec.tables import did_you_mean


class ConfigError(ValueError):
    """The configuration can't be used; the message names the file, the key and what to change."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


# --- datasets -------------------------------------------------------------------------------------------------------------------


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


Modality = Literal["image", "cover", "motion", "audio", "text", "private_public"]


# --- features -------------------------------------------------------------------------------------------------------------------


class ImageFeatures(Section):
    """A torchvision image classifier on sampled frames and on the cover."""

    model: str = "resnet152"
    weights: str = "DEFAULT"  # DEFAULT (torchvision's own), none (random, from the seed) or the path of a state dict
    output: Literal["logits", "pooled"] = "logits"  # logits are the sources' choice; pooled is what the last layer sees
    frames: Count = 8  # sampled evenly over the video
    fps: Annotated[float, Field(gt=0)] | None = None  # so many frames a second instead, `frames` at the most
    size: Annotated[int, Field(ge=32)] | None = None  # side of the square input, pixels; the model's own when not given
    resize: Annotated[int, Field(ge=32)] | None = None  # the short side before the square is cut out; in the model's own proportion


class MotionFeatures(Section):
    """`c3d`, or a torchvision video classifier, on clips of consecutive frames."""

    model: str = "r3d_18"
    weights: str = "DEFAULT"
    output: Literal["logits", "pooled"] = "pooled"  # what the last layer sees: of c3d it is fc7, the sources' choice
    frames: Count = 16  # of a clip
    clips: Count = 2  # spread evenly over the video; the features are their mean
    size: Annotated[int, Field(ge=32)] | None = None
    resize: Annotated[int, Field(ge=32)] | None = None


class AudioFeatures(Section):
    """pyAudioAnalysis' 34 short-term features, averaged over the windows."""

    sample_rate: Count = 22_050
    window_s: Annotated[float, Field(gt=0)] = 0.05
    step_s: Annotated[float, Field(gt=0)] = 0.025
    statistics: Literal["mean", "mean_std"] = "mean"  # mean_std: 68 numbers


class TextFeatures(Section):
    """A Hugging Face transformer on the title; needs `pip install rayrec[text]`."""

    model: str = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"  # a name, or the path of a folder
    most_tokens: Count = 64


class Features(Section):
    """What `extract` computes; a modality set to null is left out."""

    image: ImageFeatures | None = ImageFeatures()
    motion: MotionFeatures | None = MotionFeatures()
    audio: AudioFeatures | None = AudioFeatures()
    text: TextFeatures | None = None
    decoders: Count = 2  # videos decoded at once, one CPU each
    models: Count = 1  # copies of the networks
    gpus_per_model: Annotated[float, Field(ge=0)] = 0
    batch_videos: Count = 8


class Reduction(Section):
    """How `reduce` makes the extracted vectors small and comparable (SOURCES A). Fitted on the videos that training saw."""

    normalise: Literal["zscore", "minmax"] = "zscore"  # each number, before PCA
    sizes: dict[Modality, Count] = {"image": 80, "cover": 80, "motion": 160}  # by PCA; what is not named keeps its size


class PrivatePublic(Section):
    """The private/public network (SOURCES B), trained on primary classes. The source's size is 224, its body an I3D."""

    body: Literal["small", "s3d"] = "small"  # a small 3D CNN of our own, or torchvision's s3d
    weights: str = "none"  # of s3d, as in features.motion; the small body starts at random
    frames: Count = 32  # spread evenly over the video; also the slices of its sound
    size: Annotated[int, Field(ge=32)] = 112  # side of the square frames, pixels
    bands: Annotated[int, Field(ge=8)] = 64  # of the log-mel spectrograms
    width: Count = 16  # columns of the spectrogram of a slice
    branch_size: Count = 64  # numbers of each of the four branches
    similarity: Annotated[float, Field(ge=0)] = 0.1  # a: how much the public vectors draw each other
    difference: Annotated[float, Field(ge=0)] = 0.1  # b: how much private and public push each other away
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the videos with a class that stops the training
    epochs: Count = 30
    patience: Count = 5
    batch_size: Count = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    decoders: Count = 2
    workers: Annotated[int, Field(ge=0)] = 0  # 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _body_fits(self) -> "PrivatePublic":
        if self.body == "small" and self.weights != "none":
            raise ValueError(f"weights={self.weights!r} are for body: s3d; the small body has none (weights: none)")
        if self.body == "s3d" and (self.frames < 8 or min(self.bands, self.width) < 32):
            raise ValueError(f"s3d needs frames >= 8, bands >= 32, width >= 32, not {self.frames}, {self.bands}, {self.width}")
        return self


# --- topics ---------------------------------------------------------------------------------------------------------------------


class CoverNetwork(Section):
    """A torchvision image classifier that reads the cover's pixels and is trained on with the topics' tasks."""

    model: str = "resnet18"
    weights: str = "DEFAULT"
    size: Annotated[int, Field(ge=32)] = 224  # side of the square that is cut from the cover, pixels


class Topics(Section):
    """SOURCES C.1-C.3. The paper's scale is in configs/kuaibao.yaml."""

    modalities: list[Modality] = ["cover", "motion", "audio"]  # the reduced vectors that f_C reads (the source's: the cover)
    cover_network: CoverNetwork | None = None  # reads the cover's pixels in their place
    title_encoder: str = "bag"  # or `transformer` (small, trained from nothing), or a Hugging Face name or folder

    clusters: Count = 64
    clustering: Literal["local", "ray"] = "local"  # ray: K-means as Ray jobs, for more vectors than one machine's memory holds
    threshold: Share = 0.6  # tau3: a video gets every topic whose centre is at least this similar (cosine)
    most_topics: Count = 8
    experts: Count = 12
    expert_size: Count = 64
    encoder_size: Count = 64  # of each of the cover's and the title's encodings
    epochs: Count = 30
    batch_size: Count = 300
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    fine_tuning_rate: Annotated[float, Field(gt=0)] = 3e-5  # of the layers that come with trained weights
    workers: Annotated[int, Field(ge=0)] = 0  # processes that train z together (DDP); 0 trains in the calling one
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    least_tag_videos: Count = 1  # rarer tags are neither predicted nor walked to
    most_tags: Count = 12_000  # the most frequent ones; the others are left out
    tag_size: Count = 64
    walk_length: Annotated[int, Field(ge=2)] = 100
    walks_per_tag: Count = 10
    window: Count = 5
    skip_gram_epochs: Count = 5


# --- ranking --------------------------------------------------------------------------------------------------------------------


class Split(Section):
    """Shares of the log, by time: the oldest impressions train, the next validate, the newest test."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Ranker(Section):
    """Which network ranks, and what it is built from."""

    model: str = "wide_deep"
    options: dict[str, Any] = {}  # the model's own; `Options` in its file says which there are
    embedding_size: Count = 16
    topic_size: Count = 8  # SOURCES C.5; models whose fields must be of one size use embedding_size
    hidden: list[Count] = [128, 64]
    dropout: Share = 0.1
    history_length: Count = 50
    # Where the clicked videos enter: below the MLP, at its last layer, both, or not at all.
    history_connection: Literal["input", "top", "both", "none"] = "input"
    id_dropout: Share = 0.1  # share of video ids hidden in training, so that unseen videos are scored from their content
    item_fields: list[str] = ["author_id", "primary_class", "secondary_class"]  # of the catalog; `tags` may be named too
    context_fields: list[str] = []  # side columns of the log; `hour` and `weekday` (UTC) come from the time
    topics: bool = True
    modalities: list[Modality] = []  # reduced vectors given to the ranker itself
    fusion: Literal["concat", "attention", "user_attention"] = "concat"  # of the modalities (SOURCES B)

    @property
    def history_at_input(self) -> bool:
        return self.history_connection in ("input", "both")

    @property
    def history_at_top(self) -> bool:
        return self.history_connection in ("top", "both")


class Training(Section):
    """How it is trained. `workers: 0` trains in the calling process; more go through Ray Train's workers."""

    epochs: Count = 10
    patience: Count = 2  # epochs without a better validation AUC before it stops
    batch_size: Count = 1024  # over all workers together
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    clip: Annotated[float, Field(gt=0)] | None = None  # the largest norm of all gradients together
    cut_histories: Share = 0  # share of the training examples that see a random prefix of their history only (SOURCES A)
    hidden_clicks: Share = 0  # share of the clicks that a training example does not see
    bf16: bool = False  # on a GPU only
    compile: bool = False  # on a GPU only
    workers: Annotated[int, Field(ge=0)] = 0
    most_workers: Count | None = None  # between `workers` and so many, as the cluster has room
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a run whose worker died goes on from its checkpoint
    checkpoint_s: Annotated[float, Field(gt=0)] = 60.0
    stream_above: Count = 100_000_000  # more training examples than that are streamed from Parquet, not held in memory
    log_to: list[Literal["tensorboard", "mlflow"]] = []
    without_topics: bool = True  # also train the same ranker without topics, so that `evaluate` can say what topics add

    @model_validator(mode="after")
    def _fits_the_machine(self) -> "Training":
        if (self.bf16 or self.compile) and not self.gpus_per_worker:
            raise ValueError("bf16 and compile are for GPUs: set training.gpus_per_worker, or leave them out")
        if self.most_workers is not None and not 1 <= self.workers <= self.most_workers:
            raise ValueError(f"most_workers={self.most_workers} needs workers between 1 and that, not {self.workers}")
        return self


class Span(Section):
    """The values between two ends, `log` for those that differ by orders of magnitude."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "Span":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a span goes from a smaller to a larger number, above 0 with log; not from {self.low} to {self.high}")
        return self


Choices = Annotated[list[Any], Field(min_length=1), Tag("choices")]
ByKind = Discriminator(lambda domain: "span" if isinstance(domain, dict | Span) else "choices")
Domain = Annotated[Choices | Annotated[Span, Tag("span")], ByKind]


class Tuning(Section):
    """`rayrec tune`: ASHA stops the poor trials, Optuna proposes the next. Keys are those of overrides."""

    space: dict[str, Domain] = {}  # key -> the choices, or a span of numbers
    trials: Count = 20
    concurrent: Count = 2
    metric: Literal["auc", "log_loss"] = "auc"  # of the validation split
    least_epochs: Count = 1  # before a trial may be stopped


class Comparison(Section):
    """`rayrec compare`: each arm is the config with its overrides, trained once for each seed."""

    arms: dict[str, dict[str, Any]] = {}  # name -> {"ranker.model": "din", ...}
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3]


class Evaluation(Section):
    k: Count = 10  # of Recall@k and NDCG@k


# --- serving --------------------------------------------------------------------------------------------------------------------


class Recall(Section):
    """SOURCES C.4."""

    clicks: Count = 128  # N1: how many of the latest clicks speak for a user
    topics: Count = 4  # N2: how many of their topics are searched
    candidates: Count = 600  # N3
    least_exposures: Annotated[int, Field(ge=0)] = 10  # a video with fewer is fresh
    least_ctr: Share = 0.07  # an established video below this leaves its queue
    fresh_share: Share = 0.1


class Selection(Section):
    """How a page is taken from the scored candidates."""

    most_per_topic: Count | None = None  # videos of a page; a rule gives way where the page would not be full otherwise
    most_per_author: Count | None = None
    explore: Share = 0  # share of a page's places that go to fresh videos, whatever their score


class Serving(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    recall_replicas: Count = 1
    ranker_replicas: Count = 1
    most_ranker_replicas: Count | None = None  # with more load up to so many
    gpus_per_ranker: Annotated[float, Field(ge=0)] = 0
    most_k: Count = 100  # the largest page a caller may ask for
    refresh_s: Annotated[float, Field(gt=0)] = 1.0  # how often queues follow the counters
    # Where events are kept: a SQLite file, or redis://HOST:PORT/DATABASE; <workspace>/state/events.db when not given.
    state: str | None = None
    retention_days: Annotated[float, Field(gt=0)] = 90.0  # older events are dropped
    requests_per_s: Annotated[float, Field(gt=0)] | None = None  # of one API key, or address without keys, on each replica
    timeout_s: Annotated[float, Field(gt=0)] = 5.0  # a request that takes longer is answered with 503

    @model_validator(mode="after")
    def _scales_up(self) -> "Serving":
        if self.most_ranker_replicas is not None and self.most_ranker_replicas < self.ranker_replicas:
            raise ValueError(f"most_ranker_replicas={self.most_ranker_replicas} is below ranker_replicas={self.ranker_replicas}")
        return self


class Config(Section):
    """The whole tree."""

    workspace: str = "workspace"  # a local folder, or any URI that pyarrow or fsspec opens
    seed: int = 7
    most_rejects: Share = 0.1  # a stage fails when a larger share of its rows is bad
    dataset: Annotated[WorldData | MovieLensData | FilesData | YouTubeData, Field(discriminator="kind")] = WorldData()
    features: Features = Features()
    private_public: PrivatePublic | None = None  # left out unless the section is there
    reduction: Reduction = Reduction()
    topics: Topics = Topics()
    split: Split = Split()
    ranker: Ranker = Ranker()
    training: Training = Training()
    tuning: Tuning = Tuning()
    comparison: Comparison = Comparison()
    evaluation: Evaluation = Evaluation()
    recall: Recall = Recall()
    selection: Selection = Selection()
    serving: Serving = Serving()


def load(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The config of a YAML file (all defaults when None) with `section.key=value` overrides; values are read as YAML.

    Raises `ConfigError` for a missing file, broken YAML, an unknown key or a value of the wrong kind.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise ConfigError(f"{path}: the config file can't be read ({error.strerror})") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: a config is a mapping of sections, not {type(tree).__name__}")
    for override in overrides or []:
        _apply(tree, override)
    if isinstance(tree.get("dataset"), dict):
        tree["dataset"].setdefault("kind", "world")
    return _checked(tree, str(path or "config"))


def dump(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, all defaults included."""
    return json.loads(config.model_dump_json())


def with_values(config: Config, values: dict[str, Any], source: str = "config") -> Config:
    """The config with other values under keys such as `ranker.model`. Raises `ConfigError` as `load` does, from `source` on."""
    tree = dump(config)
    for key, value in values.items():
        _put(tree, key, value, source)
    return _checked(tree, source)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} should read section.key=value")
    _put(tree, key, yaml.safe_load(value), f"override {override!r}")


def _put(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(f"{source}: {parent!r} holds a value, not a section")
    tree[last] = value


def _checked(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_sentence(dict(problem)) for problem in error.errors()]
    raise ConfigError("\n".join(f"{source}: {line}" for line in lines))


def _sentence(problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(part for part in path if part not in DATASETS)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(path[-1], list(_section_at(path[:-1]).model_fields))}"
    return f"{key}: {problem['msg']} (got {str(problem['input'])[:80]!r})"


def _section_at(path: list[str]) -> type[Section]:
    """The class of the section at a pydantic error location, in which a dataset's kind or a mapping's key is one more step."""
    section: type[Section] = Config
    for part in path:
        if part in DATASETS:
            section = DATASETS[part]
        elif part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    """The first section that an annotation such as `Section | None` or `dict[str, list[Any] | Section]` names."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for kind in get_args(annotation) if (found := _section_in(kind))), None)
