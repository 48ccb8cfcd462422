"""The stage `replay`: several rankers predict the last days of the log, one after the other, and learn from each when it is over.

Each run of one arm with one seed is kept (`kept_runs`), so that a replay that was killed goes on with the next run.
"""

import functools
import logging
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc
from pydantic import TypeAdapter

from rayrec.config import Config, ConfigError, dump, settings_of
from rayrec.data.loading import MAY_READ, READS, joined_items
from rayrec.errors import RayrecError
from rayrec.evaluation.replay import ReplayData, ReplayedDay, replay
from rayrec.evaluation.replay_report import ReplayRun, picture, table
from rayrec.ranking.variants import variant
from rayrec.serving.cluster.room import check_room
from rayrec.stages.kept_runs import PROCESSES, Failed, Piece, fingerprint, results_of, trainings
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import NEEDED, Stage, StageRun
from rayrec.workspace.versions import Workspace

RESULTS, TABLE, PICTURE = "results.json", "results.md", "replay.png"
DAYS = TypeAdapter(list[ReplayedDay])

log = logging.getLogger(__name__)


def replay_days(run: StageRun) -> None:
    """The work of the stage: writes all days as JSON, a table in Markdown and a picture.

    Raises `RayrecError` when no arm can be replayed.
    """
    arms, settings = arms_of(run.config), run.config.replay
    sections = {arm: [dump(each) for each in (config.split, config.ranker, config.training)] for arm, config in arms.items()}
    shared = settings.model_dump(mode="json", exclude={"arms", "seeds", "concurrent"})
    names = {(arm, seed): fingerprint(run, seed, shared, *sections[arm]) for arm in arms for seed in settings.seeds}
    pieces = {
        name: Piece(f"{arm}, seed {seed}", functools.partial(_replayed, run.workspace.uri, arm, arms[arm], seed))
        for (arm, seed), name in names.items()
    }
    results = results_of(run, pieces, DAYS, trainings(run.config, list(arms.values()), settings.concurrent))
    runs = [
        ReplayRun(arm, seed, [], found.reason) if isinstance(found := results[name], Failed) else ReplayRun(arm, seed, found)
        for (arm, seed), name in names.items()
    ]
    if not any(each.days for each in runs):
        raise RayrecError(f"replay: no arm could be replayed; {runs[0].arm}: {runs[0].reason}")
    run.write_file(RESULTS, to_json([asdict(each) for each in runs], indent=1))
    run.write_file(TABLE, table(runs).encode())
    run.write_file(PICTURE, picture(runs))
    run.count(rows_in=len(runs), rows_out=sum(bool(each.days) for each in runs))


def arms_of(config: Config) -> dict[str, Config]:
    """The config of each arm. Raises `ConfigError` when one of them can't be trained."""
    return {name: variant(config, values, f"replay.arms.{name}") for name, values in config.replay.arms.items()}


def check(config: Config) -> None:
    """Raises `ConfigError` when there are no arms, or when one of them can't be trained."""
    if not config.replay.arms:
        raise ConfigError("replay.arms: there are none; give each a name and what it changes, as {topics: {ranker.topics: true}}")
    for arm in arms_of(config).values():
        check_room(PROCESSES, 1, gpus=arm.training.gpus_per_worker)


def settings(config: Config) -> dict[str, Any]:
    """The settings on which the stage depends."""
    found = settings_of(config.split, config.ranker, config.training)
    return found | {"replay": config.replay.model_dump(mode="json", exclude={"concurrent"})}


def _replayed(workspace: str, arm: str, config: Config, seed: int) -> list[ReplayedDay]:
    """The days of one arm with one seed."""
    tables = Workspace(workspace)
    interactions = tables.read("interactions")
    interactions = interactions.take(pc.sort_indices(interactions["shown_at"]))
    data = ReplayData(interactions, joined_items(tables, config.ranker), tables.read_if_there("users"))
    found = replay(data, config.ranker, config.training, config.split, config.replay, seed)
    log.info("%s, seed %d: AUC %s", arm, seed, ", ".join(f"{day.auc:.4f}" for day in found))
    return found


STAGE = Stage(
    "replay",
    replay_days,
    reads=(*READS, "interactions"),
    may_read=MAY_READ,
    settings=settings,
    check=check,
    log=NEEDED,
)
