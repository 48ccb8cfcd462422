"""The sections `encoding`, `training`, `tuning` and `comparison`: how the log is encoded, and rankers trained and compared."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rayrec.config.base import Count, Section, Share


class Encoding(Section):
    """How the log is encoded for training. Any number of shards gives the same model."""

    # Each of several workers has some of them, and every process reads whole ones: take one for each two million impressions.
    shards: Annotated[int, Field(ge=1, le=4096)] = 16


class Negatives(Section):
    """Videos that training draws for each click, none of which its user clicked. A number in place of the section is `count`."""

    count: Annotated[int, Field(ge=0)] = 4  # 0: none
    # popularity: in proportion to the clicks of a video, to the power of 0.75; page: from what was not clicked on the same page
    by: Literal["uniform", "popularity", "page"] = "uniform"

    @model_validator(mode="before")
    @classmethod
    def _count_alone(cls, value: Any) -> Any:
        return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


class Training(Section):
    """How the ranker is trained. `workers: 0` trains in the calling process; any other number starts workers with Ray Train."""

    # `current`: go on from the ranker that was published last, with what the log has from later on; without one, from the start
    from_: Annotated[Literal["current"] | None, Field(alias="from")] = None
    epochs: Count = 10
    patience: Count = 2  # epochs without a better validation AUC after which training stops
    batch_size: Count = 1024  # of all workers together
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    clip: Annotated[float, Field(gt=0)] | None = None  # the maximum norm of all gradients together
    cut_histories: Share = 0  # share of the training examples that see a random prefix of their history (short-video CTR paper)
    hidden_clicks: Share = 0  # share of the clicks in its history that a training example does not see
    negatives: Negatives | None = None  # without it, `{count: 4}` for a log of clicks alone, and none for any other
    bf16: bool = False  # only on a GPU
    compile: bool = False  # only on a GPU
    workers: Annotated[int, Field(ge=0)] = 0
    max_workers: Count | None = None  # if set, from `workers` to this number, as many as the cluster has room for
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a run continues from its checkpoint after a worker has died
    checkpoint_s: Annotated[float, Field(gt=0)] = 60.0
    log_to: list[Literal["tensorboard", "mlflow"]] = []
    without_topics: bool = True  # also train the same ranker without topics, so that `evaluate` shows what topics add

    @model_validator(mode="after")
    def _fits_the_machine(self) -> "Training":
        if (self.bf16 or self.compile) and not self.gpus_per_worker:
            raise ValueError("bf16 and compile are for GPUs: set training.gpus_per_worker, or leave them out")
        if self.max_workers is not None and not 1 <= self.workers <= self.max_workers:
            raise ValueError(f"max_workers={self.max_workers} needs workers between 1 and {self.max_workers}, not {self.workers}")
        return self


class Span(Section):
    """All values between two ends. Set `log` for values that differ by orders of magnitude."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "Span":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a span goes from a smaller to a larger one (above 0 with log), not from {self.low} to {self.high}")
        return self


Choices = Annotated[list[Any], Field(min_length=1), Tag("choices")]
ByKind = Discriminator(lambda domain: "span" if isinstance(domain, dict | Span) else "choices")
Domain = Annotated[Choices | Annotated[Span, Tag("span")], ByKind]


class Tuning(Section):
    """`rayrec tune`: Optuna proposes trials, and ASHA stops the poor ones. Keys are written as in overrides."""

    space: dict[str, Domain] = {}  # key -> a list of choices, or a span of numbers
    trials: Count = 20
    concurrent: Count = 2  # trials at the same time
    metric: Literal["auc", "log_loss"] = "auc"  # of the validation split
    min_epochs: Count = 1  # after which a trial may be stopped


class Lists(Section):
    """How `comparison.measure: lists` measures: what is held out, and among which items it is to be found."""

    k: Annotated[list[Count], Field(min_length=1)] = [10, 20]  # lengths of the lists; models are chosen by NDCG at the first
    # `split`: the clicks of the validation and test splits. `last_click`: each user's last click for the test, and the one before
    # for validation. A ranker knows the ids of users and videos in the training split alone: make that nearly the whole log.
    held_out: Literal["split", "last_click"] = "split"
    # All items are ranked, or one held-out item of each user among so many that the user never clicked (He et al., 2017).
    negatives: Count | None = None


class Comparison(Section):
    """`rayrec compare`: each arm is the config with other values, trained once for each seed."""

    # Predictions of clicks by rankers, lists by rankers and collaborative models, or ratings that collaborative models predict.
    measure: Literal["clicks", "lists", "ratings"] = "clicks"
    lists: Lists = Lists()
    arms: dict[str, dict[str, Any]] = {}  # name -> {"ranker.model": "din", ...}
    # Of `lists` and `ratings`: arm -> key -> values. Of all combinations, with the first seed, the best on validation is measured
    # on the test.
    choices: dict[str, dict[str, Annotated[list[Any], Field(min_length=1)]]] = {}
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3]
    concurrent: Count = 1  # trainings at the same time; more than one run on Ray, each with its share of the CPUs
