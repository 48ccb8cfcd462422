"""What is wrong with the data of a workspace, said before the stages that come first have worked for long."""

import logging
from collections.abc import Sequence

from rayrec.config import Config, ConfigError, FilesData, SplitsData, dump
from rayrec.data.errors import DataError
from rayrec.data.pieces import LogPieces
from rayrec.workspace.stage import Stage
from rayrec.workspace.versions import Workspace

log = logging.getLogger(__name__)


def check_data(stages: Sequence[Stage], workspace: Workspace, config: Config, measures: bool) -> None:
    """Notices stages that would work on another data set than the config's, because `ingest` is not among them and read another.

    What only `measures` would report on the wrong data: it is a `ConfigError`. For any other stage it is a warning, since tables
    may have been made where the files have other paths.
    """
    names = [stage.name for stage in stages]
    if "ingest" in names or not any("catalog" in stage.reads for stage in stages):
        return
    manifest = workspace.manifest("ingest")
    sections = manifest.settings.values() if manifest else ()
    read = next((section for section in sections if isinstance(section, dict)), {})
    wanted = dump(config.dataset)
    changed = sorted((key for key in read if wanted.get(key) != read[key]), key=lambda key: key != "kind")
    if not changed:
        return
    key = changed[0]
    problem = (
        f"{names[0]}: dataset.{key} is {wanted.get(key)!r}, but the tables of the workspace were made with {read[key]!r}; run "
        "`rayrec ingest CONFIG`, or give the value with which they were made"
    )
    if measures:
        raise ConfigError(problem)
    log.warning("%s", problem)


def check_log(workspace: Workspace, config: Config, learns: bool) -> None:
    """Notices a log that can't be split: a `DataError` where stages that learn from it follow, otherwise a warning."""
    pieces = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
    if not pieces.rows:
        return
    try:
        found = pieces.split(config.split)
    except DataError as problem:
        if learns:
            raise
        log.warning("%s", problem)
        return
    dataset = config.dataset
    given = isinstance(dataset, SplitsData) or (isinstance(dataset, FilesData) and dataset.split_column is not None)
    if given and found.by == "user":
        log.warning("The given split has all rows in training; validation and test are drawn from those of each user.")
