"""The rows and files that stages could not use, with the reasons."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rayrec.cli.common import counted, say

if TYPE_CHECKING:
    import pyarrow as pa

    from rayrec.workspace.versions import Workspace

SHOWN = 5  # after a stage


def show_first_rejects(workspace: "Workspace", stage: str) -> None:
    """Print how many rejects a stage left, the first of them, and how to see the others."""
    rejects = workspace.rejects(stage)
    if not rejects.num_rows:
        return
    say(f"{stage}: {counted(rejects.num_rows, 'reject')}, which the stage went on without:")
    _show(rejects.slice(0, SHOWN))
    if rejects.num_rows > SHOWN:
        say(f"  ... `rayrec rejects CONFIG` prints them all; as Parquet they are in {workspace.folder(stage)}/rejects")


def show_all_rejects(workspace: "Workspace", stages: Iterable[str]) -> None:
    """Print every reject of the current version of each stage."""
    found = {stage: rejects for stage in stages if (rejects := workspace.rejects(stage)).num_rows}
    for stage, rejects in found.items():
        say(f"{stage}: {counted(rejects.num_rows, 'reject')}")
        _show(rejects)
    if not found:
        say("No stage has rejected anything.")


def _show(rejects: "pa.Table") -> None:
    from rayrec.tables import in_words

    for line in in_words(rejects):
        say(f"  {line}")
