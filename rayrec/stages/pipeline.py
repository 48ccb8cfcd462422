"""The order of the stages on the road from raw videos to a bundle.

    ingest -> extract -> [private_public] -> reduce -> topics -> train -> evaluate
                                                                       -> publish -> (serve)

Each stage lives in the module of its name, which ends with its own `STAGE`. A module is imported when its stage is wanted, so that
a command loads only the libraries that its own work needs.
"""

import importlib
import logging
from collections.abc import Callable, Iterable

from rayrec.config import Config
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Manifest, Workspace

ROAD = ("ingest", "extract", "private_public", "reduce", "topics", "train", "evaluate", "publish")
# Run only when asked for: they read the tables that the road left.
ON_DEMAND = ("tune", "compare", "topic_report")

log = logging.getLogger(__name__)


def load_stage(name: str) -> Stage:
    """The stage of this name; imports its module."""
    stage = importlib.import_module(f"rayrec.stages.{name}").STAGE
    assert isinstance(stage, Stage)
    return stage


def names_for(config: Config) -> list[str]:
    """The names of the road's stages that this config wants, in order: `private_public` only when it has that section."""
    return [name for name in ROAD if name != "private_public" or config.private_public is not None]


def stages_for(config: Config) -> list[Stage]:
    """The road's stages that this config wants, in order."""
    return [load_stage(name) for name in names_for(config)]


def run_stages(
    stages: Iterable[Stage],
    config: Config,
    force: bool = False,
    on_done: Callable[[Manifest, bool], None] = lambda manifest, done: None,
) -> None:
    """Run stages in the given order; `on_done` gets each one's manifest and whether anything was done."""
    workspace = Workspace(config.workspace)
    for stage in stages:
        if stage.name in ROAD and stage.name not in names_for(config):
            log.info("%s: skipped, because the config has no such section", stage.name)
            continue
        log.info("%s ...", stage.name)
        on_done(*run_stage(workspace, stage, config, force))
