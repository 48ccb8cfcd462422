"""The section `collaborative`: a model of who liked what, which needs nothing of the videos but their ids."""

from typing import Annotated, Any

from pydantic import Field

from rayrec.config.base import Count, Section


class Collaborative(Section):
    """Which model learns from the clicks alone. The stage `collaborative` fits it, for recall."""

    model: str = "ease"  # by the names of files in `rayrec/collaborative/models/`
    options: dict[str, Any] = {}  # of this model; `Options` in its file says which there are
    neighbours: Count = 50  # of each item, which recall may use
    workers: Annotated[int, Field(ge=0)] = 0  # processes that train a model without a closed form; 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a training continues from its checkpoint after a worker has died
