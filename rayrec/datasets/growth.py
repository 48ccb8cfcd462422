"""A log that grows by files: what the version before has of it is neither read nor written anew.

log.json says which files the log of a version was made of. If they are all as they were, only the new ones are read. Part files
whose times come before all new impressions are shared with the version before; the others are merged with the new impressions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from rayrec import __version__
from rayrec.datasets.runs import Part
from rayrec.datasets.screening import REJECTED, UNKNOWN
from rayrec.datasets.side_columns import Facts
from rayrec.tables import TEXT
from rayrec.workspace.files import file_facts, open_filesystem, read_whole, to_json
from rayrec.workspace.stage import StageRun

FACTS = "log.json"


@dataclass(frozen=True)
class LogFacts:
    """The content of log.json."""

    files: dict[str, tuple[int, int]]  # the size and the time of change (ns) of each
    read: int  # rows, good and bad
    columns: dict[str, Facts]  # of side columns
    parts: list[Part]  # in the order of time


_FACTS = TypeAdapter(LogFacts)


@dataclass(frozen=True)
class Earlier:
    """What can be taken over of the log of the version before."""

    facts: LogFacts
    places: dict[str, tuple[str, str]] = field(default_factory=dict)  # of each part file: its path inside `fs`, and its SHA-256
    rejects: list[pa.Table] = field(default_factory=list)  # of the log
    catalog: list[str] = field(default_factory=list)  # the part files of the catalog that it was screened with

    def holds(self, fs: pafs.FileSystem, catalog: Iterable[str]) -> bool:
        """Whether its impressions would be accepted and rejected as they were with a catalog that has these part files."""
        before, now = _ids(fs, self.catalog), _ids(fs, catalog)
        if not pc.all(pc.is_in(before, value_set=now)).as_py():
            return False
        return len(before) == len(now) or not any(_for_their_video(table) for table in self.rejects)


NOTHING = Earlier(LogFacts({}, 0, {}, []))


def facts_of_files(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The size and the time of change (ns) of each file."""
    found = {}
    for path in paths:
        fs, inside = open_filesystem(path)
        _, size, changed = file_facts(fs, [inside])[0]
        found[path] = (size, changed)
    return found


def earlier_log(run: StageRun, files: dict[str, tuple[int, int]]) -> Earlier:
    """What the version before has of a log with these files; nothing unless all files that it read are among them, unchanged."""
    before = run.previous
    if (
        before is None
        or before.rayrec != __version__
        or _rules(before.settings) != _rules(run.settings)
        or FACTS not in before.files
    ):
        return NOTHING
    facts = _FACTS.validate_json(read_whole(run.fs, f"{run.previous_folder}/{FACTS}"))
    if not facts.files or not facts.files.items() <= files.items():
        return NOTHING
    places = {path: (place, before.files[path][1]) for path, place in run.previous_parts("interactions").items()}
    rejects = []
    for place in run.previous_parts("rejects").values():
        table = pq.read_table(place, filesystem=run.fs)
        rejects.append(table.filter(pc.is_in(table["source"].cast(TEXT), value_set=pa.array(facts.files, TEXT))))
    return Earlier(facts, places, [table for table in rejects if table.num_rows], list(run.previous_parts("catalog").values()))


def _rules(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the stage, but for the list of the log's files."""
    return {name: {**section, "interactions": None} if isinstance(section, dict) else section for name, section in settings.items()}


def write_facts(run: StageRun, facts: LogFacts) -> None:
    run.write_file(FACTS, to_json(_FACTS.dump_python(facts, mode="json")))


def _for_their_video(rejects: pa.Table) -> bool:
    """Whether a row was rejected because the catalog lacked its video."""
    return any(pc.any(pc.ends_with(rejects["reason"], f"{end} the catalog")).as_py() for end in (REJECTED, UNKNOWN))


def _ids(fs: pafs.FileSystem, parts: Iterable[str]) -> pa.ChunkedArray:
    columns = [pq.read_table(path, filesystem=fs, columns=["video_id"])["video_id"] for path in parts]
    return pa.chunked_array([chunk for column in columns for chunk in column.cast(TEXT).chunks], TEXT)
