"""Rows on their way in: which are good, where they stood in their file, and why the others were rejected.

Every data set passes through `Incoming`, so that one set of rules holds for all of them.
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
class Incoming:
    """The rows of one file: those still good, their row numbers in the file (from 0, without the header), and the rejects.

    Of several files that were `joined`, `sources` says which row is from which.
    """

    source: str
    table: pa.Table
    rows: np.ndarray
    rejected: list[pa.Table] = field(default_factory=list)
    sources: pa.Array | None = None

    @classmethod
    def whole(cls, source: str, table: pa.Table) -> "Incoming":
        return cls(source, table, np.arange(table.num_rows))

    @classmethod
    def joined(cls, parts: "list[Incoming]") -> "Incoming":
        """The rows of several files, one after the other. A side column whose types differ becomes text."""
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
        """How many rows the file holds, good and bad."""
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
        self._part(self.table.filter(pa.array(~bad)), tables.rejects(STAGE, self.source, self.table, bad, sentences, id_column))

    def screen(self, name: str) -> None:
        """Hold the rows to the rules of table `name`: keys once (the first row wins), required values, finite numbers, floors."""
        self._part(*tables.screen(name, self.table, self.source, STAGE))

    def _part(self, good: pa.Table, rejected: pa.Table) -> None:
        """Keep `good`; the row numbers of `rejected` are positions in the present table and become those of the file."""
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


def reject_unknown_videos(interactions: Incoming, catalog: Incoming) -> None:
    """An impression counts only when its video is in the catalog."""
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
    """Impressions by the time they were shown. Of those shown at once, a request's rows stay together and in the file's order."""
    position = np.arange(interactions.num_rows)
    named = interactions["request_id"].combine_chunks().dictionary_encode().indices
    codes = named.fill_null(-1).to_numpy(zero_copy_only=False)
    request = np.where(codes < 0, position, 0)  # a row without a request is one of its own
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    request = np.where(codes < 0, request, first[inverse])
    order = np.lexsort((position, request, interactions["shown_at"].to_numpy()))
    return interactions.take(pa.array(order))


def place_media(catalog: Incoming, root: str, confined: bool) -> None:
    """Make every `uri` absolute, relative ones starting from `root`, and reject those that name no place of their own there.

    `confined` also rejects absolute paths and full URIs: a catalog may come from strangers, `root` is the user's own word.
    """
    if "://" not in root or root.startswith("file://"):
        root = open_filesystem(root)[1]  # a plain path, in which % ? and # mean nothing
    placed: list[str | None] = []
    reasons = {}
    for row, uri in enumerate(catalog.table["uri"].to_pylist()):
        try:
            placed.append(None if uri is None else _place(uri, root, confined))
        except ValueError as error:
            reasons[row] = f"uri: {uri[:80]!r} {error}"
            placed.append(None)
    index = catalog.table.schema.get_field_index("uri")
    catalog.table = catalog.table.set_column(index, "uri", pa.array(placed, pa.string()))
    catalog.reject(reasons, "video_id")


def join_uri(root: str, path: str) -> str:
    """A path below a folder given as a local path or as a URI, whose `?query` stays at the end."""
    base, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return f"{base.rstrip('/')}/{path}{mark}{query}"


def _place(uri: str, root: str, confined: bool) -> str:
    if "\0" in uri:
        raise ValueError("holds a zero byte")
    if "://" in uri or uri.startswith("/"):
        if confined:
            raise ValueError(f"is absolute; with `dataset.media_root` set ({root}) every uri must be relative to it")
        return uri
    path = posixpath.normpath(uri)
    # A remote root decodes %2e%2e/ before it looks; a local folder takes it literally.
    seen = posixpath.normpath(unquote(uri)) if "://" in root else path
    if seen == ".":
        raise ValueError("names no file")
    if seen == ".." or seen.startswith(("../", "/")):
        raise ValueError(f"leads out of {root}; set `dataset.media_root` to the folder that holds all media")
    return join_uri(root, path)
