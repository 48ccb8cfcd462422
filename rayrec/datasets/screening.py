"""The rows of a source on their way in: which are good, where they were in their file, and why the others were rejected.

The tables of every data set pass through `SourceTable`, so that one set of rules holds for all of them.
"""

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec import tables
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stores import join_uri

STAGE = "ingest"
REJECTED, UNKNOWN = "was rejected from", "is not in"  # of a row that names one of another table


@dataclass
class SourceTable:
    """The rows of one source that are still good, their row numbers in its file, and the rows that were rejected."""

    source: str  # a path, a URI, or a description where there is no file
    table: pa.Table
    rows: np.ndarray  # int64 [rows of `table`], from 1, as a spreadsheet counts them: a header is row 1
    rejected: list[pa.Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # sentences for the user, about the file rather than a row

    @classmethod
    def of(cls, source: str, table: pa.Table, first_row: int = 1) -> "SourceTable":
        """A table of which no row was rejected yet; `first_row` is the number of its first row in the source."""
        return cls(source, table, np.arange(first_row, first_row + table.num_rows))

    @property
    def read(self) -> int:
        """The number of rows that were read, good and bad."""
        return self.table.num_rows + sum(part.num_rows for part in self.rejected)

    @property
    def rejects(self) -> pa.Table:
        return pa.concat_tables([tables.empty("rejects"), *self.rejected])

    def reject(self, reasons: Mapping[int, str], id_column: str) -> None:
        """Move rows to the rejects; `reasons` is keyed by position in `table`."""
        if not reasons:
            return
        bad = np.zeros(self.table.num_rows, dtype=bool)
        bad[list(reasons)] = True
        sentences = [reasons[row] for row in sorted(reasons)]
        good = self.table.filter(pa.array(~bad))
        self._keep(good, tables.rejects(STAGE, self.source, self.table, bad, sentences, id_column))

    def screen(self, name: str) -> None:
        """Reject the rows that break a rule of table `name` by themselves."""
        self._keep(*tables.screen(name, self.table, self.source, STAGE))

    def _keep(self, good: pa.Table, rejected: pa.Table) -> None:
        """Keep the rows in `good`. The row numbers of `rejected`, positions in the present table, become those in the file."""
        positions = rejected["row"].to_numpy()
        numbered = rejected.set_column(rejected.schema.get_field_index("row"), "row", pa.array(self.rows[positions], pa.int64()))
        self.rejected.append(numbered)
        self.rows = np.delete(self.rows, positions)
        self.table = good


def reject_unknown(block: SourceTable, column: str, known: pa.Array, lost: Callable[[], set[str]], where: str) -> None:
    """Reject the rows whose id in a column is not in another table. `lost` has the ids of the rows that were rejected from it.

    `where` is what sentences call that table, such as "the catalog".
    """
    ids = block.table[column]
    unknown = np.flatnonzero(~pc.is_in(ids, value_set=known).to_numpy())
    if not len(unknown):
        return
    rejected, found = lost(), ids.take(pa.array(unknown)).to_pylist()
    reasons = {
        int(row): f"{column}: {id[:80]!r} {REJECTED if id in rejected else UNKNOWN} {where}"
        for row, id in zip(unknown, found, strict=True)
    }
    block.reject(reasons, "user_id")


def reject_out_of_range(block: SourceTable, column: str, range: tuple[float, float] | None) -> None:
    """Reject the rows whose number in a column is outside of the range, if there is one."""
    if range is None:
        return
    values = block.table[column].to_numpy()
    lowest, highest = range
    wrong = np.flatnonzero((values < lowest) | (values > highest))
    block.reject({int(row): f"{column}: {values[row]:g} is not between {lowest:g} and {highest:g}" for row in wrong}, "user_id")


def resolve_uris(block: SourceTable, column: str, root: str, confined: bool, id_column: str = "video_id") -> None:
    """Make every uri in a column absolute, and reject those that name no file below `root`, from which relative uris start.

    `confined` also rejects absolute paths and full URIs, because a catalog may come from strangers whereas the user chose `root`.
    """
    if "://" not in root or root.startswith("file://"):
        try:
            root = open_filesystem(root)[1]  # a plain path, in which % ? and # mean nothing
        except ValueError as error:
            raise tables.TableError(f"media_root: {root!r} can't be opened: {error}") from error
    resolved: list[str | None] = []
    reasons = {}
    for row, uri in enumerate(block.table[column].to_pylist()):
        try:
            resolved.append(None if uri is None else resolved_uri(uri, root, confined))
        except ValueError as error:
            reasons[row] = f"{column}: {uri[:80]!r} {error}"
            resolved.append(None)
    index = block.table.schema.get_field_index(column)
    block.table = block.table.set_column(index, column, pa.array(resolved, tables.TEXT))
    block.reject(reasons, id_column)


def resolved_uri(uri: str, root: str, confined: bool) -> str:
    """The absolute form of a uri. Raises `ValueError` with the end of a sentence for one that is rejected."""
    if "\0" in uri:
        raise ValueError("contains a zero byte")
    if "://" in uri or uri.startswith("/"):
        if confined:
            raise ValueError(f"is absolute; with `media_root` set ({root}) every uri must be relative to it")
        return uri
    path = posixpath.normpath(uri)
    # A remote store decodes %2e%2e/ before it looks the path up; a local file system takes it literally.
    seen = posixpath.normpath(unquote(uri)) if "://" in root else path
    if seen == ".":
        raise ValueError("names no file")
    if seen == ".." or seen.startswith(("../", "/")):
        raise ValueError(f"leads out of {root}; set `media_root` to the folder that holds all media")
    return join_uri(root, path)
