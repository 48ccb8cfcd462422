"""The rows of a source on their way in: which are good, where they were in their file, and why the others were rejected.

The tables of every data set pass through `SourceTable`, so that one set of rules holds for all of them.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec import tables
from rayrec.workspace.files import open_filesystem

STAGE = "ingest"


@dataclass
class SourceTable:
    """The rows of one source that are still good, their row numbers in its file, and the rows that were rejected."""

    source: str  # a path, a URI, or a description where there is no file
    table: pa.Table
    rows: np.ndarray  # int64 [rows of `table`], from 0, without the header
    rejected: list[pa.Table] = field(default_factory=list)
    sources: pa.Array | None = None  # the file of each row, where several files were concatenated

    @classmethod
    def of(cls, source: str, table: pa.Table) -> "SourceTable":
        """A table of which no row was rejected yet."""
        return cls(source, table, np.arange(table.num_rows))

    @classmethod
    def concatenated(cls, parts: "list[SourceTable]") -> "SourceTable":
        """The rows of several files, one file after the other. A side column whose types differ becomes text."""
        if len(parts) == 1:
            return parts[0]
        kinds: dict[str, set[pa.DataType]] = {}
        for column in (column for part in parts for column in part.table.schema):
            kinds.setdefault(column.name, set()).add(column.type)
        mixed = {name for name, types in kinds.items() if len(types) > 1}
        together = pa.concat_tables([_as_text(part.table, mixed) for part in parts], promote_options="default")
        files, counts = pa.array([part.source for part in parts]), [part.table.num_rows for part in parts]
        sources = pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(parts), dtype=np.int32), counts), files)
        rejected = [rejects for part in parts for rejects in part.rejected]
        return cls(", ".join(files.to_pylist()), together, np.concatenate([part.rows for part in parts]), rejected, sources)

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
        """Reject the rows that break a rule of table `name`; of rows with the same key the first one stays."""
        self._keep(*tables.screen(name, self.table, self.source, STAGE))

    def _keep(self, good: pa.Table, rejected: pa.Table) -> None:
        """Keep the rows in `good`. The row numbers of `rejected`, positions in the present table, become those in the file."""
        positions = rejected["row"].to_numpy()
        numbered = rejected.set_column(rejected.schema.get_field_index("row"), "row", pa.array(self.rows[positions], pa.int64()))
        if self.sources is not None:
            bad = self.sources.take(pa.array(positions)).dictionary_decode()
            numbered = numbered.set_column(rejected.schema.get_field_index("source"), "source", bad)
            self.sources = self.sources.take(pa.array(np.delete(np.arange(len(self.rows)), positions)))
        self.rejected.append(numbered)
        self.rows = np.delete(self.rows, positions)
        self.table = good


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(tables.TEXT))
    return table


def reject_unknown_videos(interactions: SourceTable, catalog: SourceTable) -> None:
    """Reject the impressions whose video is not in the catalog."""
    lost = set(catalog.rejects["id"].to_pylist())
    known = pc.is_in(interactions.table["video_id"], value_set=catalog.table["video_id"].combine_chunks())
    unknown = np.flatnonzero(~known.to_numpy())
    ids = interactions.table["video_id"].take(pa.array(unknown)).to_pylist()
    reasons = {
        int(row): f"video_id: {video[:80]!r} " + ("was rejected from the catalog" if video in lost else "is not in the catalog")
        for row, video in zip(unknown, ids, strict=True)
    }
    interactions.reject(reasons, "user_id")


def in_time_order(interactions: pa.Table) -> pa.Table:
    """The impressions, sorted by the time they were shown.

    Among those that were shown at the same time, the rows of one request stay together, in the order of the file.
    """
    position = np.arange(interactions.num_rows)
    named = interactions["request_id"].combine_chunks().dictionary_encode().indices
    codes = named.fill_null(-1).to_numpy(zero_copy_only=False)
    request = np.where(codes < 0, position, 0)  # a row without a request counts as a request of one row
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    request = np.where(codes < 0, request, first[inverse])
    order = np.lexsort((position, request, interactions["shown_at"].to_numpy()))
    return interactions.take(pa.array(order))


def resolve_uris(catalog: SourceTable, root: str, confined: bool) -> None:
    """Make every `uri` absolute, and reject those that name no file below `root`, from which relative uris start.

    `confined` also rejects absolute paths and full URIs, because a catalog may come from strangers whereas the user chose `root`.
    """
    if "://" not in root or root.startswith("file://"):
        root = open_filesystem(root)[1]  # a plain path, in which % ? and # mean nothing
    resolved: list[str | None] = []
    reasons = {}
    for row, uri in enumerate(catalog.table["uri"].to_pylist()):
        try:
            resolved.append(None if uri is None else _resolved(uri, root, confined))
        except ValueError as error:
            reasons[row] = f"uri: {uri[:80]!r} {error}"
            resolved.append(None)
    index = catalog.table.schema.get_field_index("uri")
    catalog.table = catalog.table.set_column(index, "uri", pa.array(resolved, pa.string()))
    catalog.reject(reasons, "video_id")


def join_uri(root: str, path: str) -> str:
    """A path below a folder. The folder is a local path or a URI; the `?query` of a URI stays at the end."""
    base, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return f"{base.rstrip('/')}/{path}{mark}{query}"


def _resolved(uri: str, root: str, confined: bool) -> str:
    """The absolute form of a uri. Raises `ValueError` with the end of a sentence for one that is rejected."""
    if "\0" in uri:
        raise ValueError("contains a zero byte")
    if "://" in uri or uri.startswith("/"):
        if confined:
            raise ValueError(f"is absolute; with `dataset.media_root` set ({root}) every uri must be relative to it")
        return uri
    path = posixpath.normpath(uri)
    # A remote store decodes %2e%2e/ before it looks the path up; a local file system takes it literally.
    seen = posixpath.normpath(unquote(uri)) if "://" in root else path
    if seen == ".":
        raise ValueError("names no file")
    if seen == ".." or seen.startswith(("../", "/")):
        raise ValueError(f"leads out of {root}; set `dataset.media_root` to the folder that holds all media")
    return join_uri(root, path)
