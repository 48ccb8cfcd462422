"""The section `ab_test`: an A/B test on simulated people."""

from typing import Annotated, Any

from pydantic import Field

from rayrec.config.base import Count, Section


class ABTest(Section):
    """`rayrec ab_test`: new people of the synthetic world browse what each arm recommends, from the rankers that `train` made."""

    people: Count = 20_000
    groups: Annotated[int, Field(ge=2)] = 8  # of equal size; those that are most alike before get the arms
    days: Count = 7  # in which all groups have the first arm, and as many in which each chosen group has its own
    k: Count = 10  # videos of a page
    # Name -> what differs: keys of `recall` and `selection`, and `ranker.topics: false` for the ranker without topics. The first
    # arm is the control.
    arms: dict[str, dict[str, Any]] = {}
    concurrent: Count = 1  # crowds at the same time; more than one browse on Ray
