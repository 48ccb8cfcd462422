"""The stage `compare`: trains several models on the same data with several seeds, and measures each on the test split.

The setting `comparison.measure` says by what: `compare_clicks`, `compare_lists` and `compare_ratings` each do one kind. Each run of
one arm with one seed is kept (`kept_runs`), so that a comparison that was killed continues with the next run, and a new arm is
trained alone.
"""

from typing import Any

from rayrec.config import Config, ConfigError, dump
from rayrec.data.loading import MAY_READ, READS
from rayrec.evaluation.comparison import TABLE
from rayrec.serving.cluster.room import check_room
from rayrec.stages import compare_clicks, compare_lists, compare_ratings, encode
from rayrec.stages.kept_runs import PROCESSES
from rayrec.workspace.stage import Stage, StageRun

__all__ = ["STAGE", "TABLE"]

# How the work is done, and the configs that it trains.
KINDS = {
    "clicks": (compare_clicks.compare_clicks, lambda config: list(compare_clicks.arms_of(config).values())),
    "lists": (compare_lists.compare_lists, compare_lists.configs_of),
    "ratings": (compare_ratings.compare_ratings, compare_ratings.configs_of),
}


def compare(run: StageRun) -> None:
    """The work of the stage: writes all runs as JSON, a table in Markdown, and a picture.

    Raises `RayrecError` when every arm fails.
    """
    work, _ = KINDS[run.config.comparison.measure]
    work(run)


def check(config: Config) -> None:
    """Raises `ConfigError` when there are no arms, or when one of them can't be trained or asks for a GPU that is not there."""
    if not config.comparison.arms:
        raise ConfigError("comparison.arms: there are none; give each a name and what it changes, as {din: {ranker.model: din}}")
    _, configs = KINDS[config.comparison.measure]
    for arm in configs(config):
        check_room(PROCESSES, 1, gpus=arm.training.gpus_per_worker)


def settings(config: Config) -> dict[str, Any]:
    """The settings on which the stage depends."""
    sections = {name: getattr(config, name) for name in ("split", "ranker", "training", "collaborative")}
    found = {name: section and dump(section) for name, section in sections.items()}
    return found | {"comparison": config.comparison.model_dump(mode="json", exclude={"concurrent"})}


STAGE = Stage(
    "compare",
    compare,
    reads=(*READS, "interactions"),
    may_read=MAY_READ,
    after=("encode",),
    settings=settings,
    check=check,
    first=(encode.STAGE,),
)
