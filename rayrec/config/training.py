"""The sections `training`, `tuning` and `comparison`: how rankers are trained, searched and compared."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rayrec.config.base import Count, Section, Share


class Training(Section):
    """How it is trained. `workers: 0` trains in the calling process; more go through Ray Train's workers."""

    epochs: Count = 10
    patience: Count = 2  # epochs without a better validation AUC before it stops
    batch_size: Count = 1024  # over all workers together
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    clip: Annotated[float, Field(gt=0)] | None = None  # the largest norm of all gradients together
    cut_histories: Share = 0  # share of the training examples that see a random prefix of their history only
    hidden_clicks: Share = 0  # share of the clicks that a training example does not see
    bf16: bool = False  # on a GPU only
    compile: bool = False  # on a GPU only
    workers: Annotated[int, Field(ge=0)] = 0
    max_workers: Count | None = None  # between `workers` and so many, as the cluster has room
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
        if self.max_workers is not None and not 1 <= self.workers <= self.max_workers:
            raise ValueError(f"max_workers={self.max_workers} needs workers between 1 and that, not {self.workers}")
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
    min_epochs: Count = 1  # before a trial may be stopped


class Comparison(Section):
    """`rayrec compare`: each arm is the config with its overrides, trained once for each seed."""

    arms: dict[str, dict[str, Any]] = {}  # name -> {"ranker.model": "din", ...}
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3]
