"""The section `serving`: how the service listens, scales, keeps events and takes new videos."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from rayrec.config.base import Count, Section
from rayrec.config.experiments import Experiment, check_experiments

KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
# Kinds of events that the service knows anyway, and columns of the log that an export makes of what it knows.
TAKEN: tuple[str, ...] = (
    "impression",
    "view",
    "click",
    "watch",
    "like",
    "skip",
    "clicked",
    "watched",
    "viewed",
    "liked",
    "skipped",
    "rating",
)
TAKEN += ("user_id", "video_id", "watch_s", "watch_share", "request_id", "arm", "context", "export", "propensity")
TAKEN += ("position", "page_number", "session_id", "dwell_s")


def _own_kinds(names: list[str]) -> list[str]:
    for name in names:
        if not KIND.fullmatch(name) or name in TAKEN or name.endswith("_at"):
            raise ValueError(
                f"{name!r} can't be a kind of one's own: take a name such as share, of a to z, digits and _, that is neither a "
                "kind of rayrec's events nor a column of the log"
            )
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there {names.count(name)} times")
    return names


class Uploads(Section):
    """How new videos come in while the service runs. `{}` takes uploaded files alone."""

    max_bytes: Count = 64 * 2**20  # of an uploaded file
    timeout_s: Annotated[float, Field(gt=0)] = 60.0  # an upload that takes longer is answered with 408 or 503
    max_at_once: Count = 4  # uploads that a recall replica takes at a time; more are answered with 503
    decode_timeout_s: Annotated[float, Field(gt=0)] = 20.0  # a file that takes longer is rejected
    folder: str | None = None  # where uploaded files are kept; the default is <workspace>/uploads
    # Folders and URIs of folders from which callers may name files; others are refused. Relative names start from the first one.
    media_roots: list[str] = []
    watch_folder: str | None = None  # a folder or its URI: every video that appears in it is added
    watch_s: Annotated[float, Field(gt=0)] = 1.0  # how often the folder is looked through; a file must be unchanged for as long


class Serving(Section):
    """One service on one cluster."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    recall_replicas: Count = 1
    ranker_replicas: Count = 1
    max_ranker_replicas: Count | None = None  # if set, replicas are added up to this number under load
    gpus_per_ranker: Annotated[float, Field(ge=0)] = 0
    max_k: Count = 100  # the largest page a caller may ask for
    refresh_s: Annotated[float, Field(gt=0)] = 1.0  # how often the queues are updated from the counters
    # Where events are kept: a SQLite file, or redis://HOST:PORT/DATABASE. The default is <workspace>/state/events.db.
    state: str | None = None
    retention_days: Annotated[float, Field(gt=0)] = 90.0  # older events are deleted
    requests_per_s: Annotated[float, Field(gt=0)] | None = None  # for each API key (without keys: address) and replica
    timeout_s: Annotated[float, Field(gt=0)] = 5.0  # a request that takes longer is answered with 503
    # Kinds of events beside rayrec's own that callers send, such as finish, share and follow; the export has a column for each
    event_kinds: Annotated[list[str], AfterValidator(_own_kinds)] = []
    # Keys whose requests may bring a formula of their own (`score`): the first 8 hexadecimal digits of the SHA-256 of each key
    trusted_keys: list[Annotated[str, Field(pattern="^[0-9a-f]{8}$")]] = []
    uploads: Uploads | None = None  # if set, POST /v1/videos adds videos
    # Name -> experiment: which users get pages that are made otherwise. [Operations](operations.md#running-an-experiment) says how.
    experiments: dict[str, Experiment] = {}

    @model_validator(mode="after")
    def _scales_up(self) -> "Serving":
        if self.max_ranker_replicas is not None and self.max_ranker_replicas < self.ranker_replicas:
            raise ValueError(f"max_ranker_replicas={self.max_ranker_replicas} is below ranker_replicas={self.ranker_replicas}")
        return self

    @model_validator(mode="after")
    def _experiments_fit(self) -> "Serving":
        check_experiments(self.experiments)
        return self
