"""The order of the stages that lead from raw videos to a bundle.

    ingest -> extract -> [private_public] -> reduce -> topics -> [search_index]
           -> encode -> [collaborative] -> [music] -> train -> evaluate
                                                 -> publish -> (serve)

Each stage is in the module of its name, which ends with its `STAGE`. A module is imported when its stage is asked for, so that a
command loads only the libraries that its own work needs.
"""

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayrec.config import Config
    from rayrec.workspace.stage import Stage
    from rayrec.workspace.versions import Manifest

ROAD = (
    *("ingest", "extract", "private_public", "reduce", "topics", "search_index"),
    *("encode", "collaborative", "music", "train", "evaluate", "publish"),
)
# stage -> the section that it needs
OPTIONAL = {"private_public": "private_public", "search_index": "search", "collaborative": "collaborative", "music": "music"}
# Run only when asked for; they read the tables that the stages of the pipeline have written.
ON_DEMAND = ("compress", "tune", "compare", "replay", "ab_test", "off_policy", "topic_report")

log = logging.getLogger(__name__)


def load_stage(name: str) -> "Stage":
    """The stage of this name. Imports its module."""
    stage: Stage = importlib.import_module(f"rayrec.stages.{name}").STAGE
    return stage


def names_for(config: "Config") -> list[str]:
    """The names of the stages that this config wants, in order: those of `OPTIONAL` only if the config has their section."""
    return [name for name in ROAD if name not in OPTIONAL or getattr(config, OPTIONAL[name]) is not None]


def stages_for(config: "Config") -> "list[Stage]":
    """The stages that this config wants, in order."""
    return [load_stage(name) for name in names_for(config)]


def check(stages: "Iterable[Stage]", config: "Config") -> None:
    """Raises what is wrong with the config for one of the stages, before any of them works and before Ray starts."""
    for stage in wanted(stages, config):
        stage.check(config)


def wanted(stages: "Iterable[Stage]", config: "Config") -> "list[Stage]":
    """The stages without those that this config leaves out."""
    return [stage for stage in stages if stage.name not in ROAD or stage.name in names_for(config)]


def run_stages(
    stages: "Iterable[Stage]",
    config: "Config",
    force: bool = False,
    on_done: "Callable[[Manifest, bool], None]" = lambda manifest, done: None,
) -> None:
    """Run stages in the given order. `on_done` is called with the manifest of each and whether anything was done.

    Raises at once what is wrong with the config for any of them. Of several stages, those that need a log are left out while it is
    empty.
    """
    from rayrec.stages.data_checks import check_data, check_log
    from rayrec.workspace.stage import NEEDED, NO_LOG, lacks_log, run_stage
    from rayrec.workspace.versions import Workspace

    stages = list(stages)
    check(stages, config)
    workspace = Workspace(config.workspace)
    check_data(stages, workspace, config, measures=any(stage.name in ON_DEMAND for stage in stages))
    for stage in stages:
        if stage not in wanted(stages, config):
            log.info("%s: skipped, because the config has no such section", stage.name)
            continue
        if stage.log == NEEDED and len(stages) > 1 and lacks_log(workspace):
            log.info("%s: skipped, because %s", stage.name, NO_LOG)
            continue
        log.info("%s ...", stage.name)
        on_done(*run_stage(workspace, stage, config, force))
        if stage.name == "ingest":
            check_log(workspace, config, learns=any(each.log == NEEDED for each in stages))
