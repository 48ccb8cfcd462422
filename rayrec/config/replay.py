"""The section `replay`: rankers that go through the log day by day."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rayrec.config.base import Count, Section


class Replay(Section):
    """`rayrec replay`: rankers predict the last days of the log, one after the other, and learn from each when it is over."""

    days: Count = 5  # the last ones of the log (UTC) that have impressions
    # What is learned of a day that is over. `real`: its impressions as the log has them. `predicted`: the likeliest of them count
    # as clicked, as many as the click rate of the days before all of these gives; later histories have these clicks, too.
    learn: Literal["predicted", "real"] = "predicted"
    epochs: Count = 1  # over the new impressions, for each update
    arms: dict[str, dict[str, Any]] = {}  # name -> {"ranker.model": "din", ...}
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3]
    concurrent: Count = 1  # arms at the same time; more than one run on Ray, each with its share of the CPUs
