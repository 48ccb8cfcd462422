"""The section `off_policy`: another ranker judged by what was drawn for the places that explore."""

from rayrec.config.base import Count, Section


class OffPolicy(Section):
    """`rayrec off_policy`: how often the videos would be clicked that another ranker puts on the places that explore.

    It has served nobody: `selection.explore` drew the videos of these places with known odds, and the log says what became of them.
    """

    log: str | None = None  # the folder of `rayrec events export`; without one, people of `dataset.kind: world` browse
    version: str | None = None  # the published bundle whose ranker is judged; without one, it is that of `train`
    people: Count = 4_000  # who browse where there is no log
    days: Count = 3
    k: Count = 10  # videos of their pages
