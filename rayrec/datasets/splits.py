"""Reads a log that was published with its split: one file for each part, with a row for each user and item.

For instance `train.tsv`, `val.tsv` and `test.tsv` with rows `user<TAB>item`, beside vectors of the items in NumPy's format:

    dataset:
      kind: splits
      train: data/train.tsv
      validation: data/val.tsv
      test: data/test.tsv
      features: {image: data/image_feat.npy, audio: data/audio_feat.npy}

or MovieLens' `u1.base` and `u1.test`, whose validation rows are drawn from `u1.base` for each user:

    dataset:
      kind: splits
      train: data/u1.base
      test: data/u1.test
      columns: [user_id, video_id, rating, shown_at]
      click_at_least: 4

`rayrec ingest` makes the usual tables of it. `interactions` has the parts one after the other (`shown_at` stands for the part and
for a random order, see `tables.PART_MS`), and every stage that splits the log finds them again: `LogPieces.split` gives the rows of
each part. Ratings are in the column `rating`. `catalog` has a row for each item in the order of its number, and a column of vectors
for each feature, which rankers read with `ranker.item_fields: [image, audio]`.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import SplitsData
from rayrec.datasets.conversion import Conventions
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.delimited import Dialect, csv_blocks
from rayrec.datasets.guessing import NAMES
from rayrec.datasets.log_rows import LogRules, convert_log
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Damaged, Limits, Source
from rayrec.tables import TEXT, TableError
from rayrec.workspace.files import open_input, open_stream
from rayrec.workspace.stage import StageRun

FIRST_LINE = 2**16  # bytes


@dataclass(frozen=True)
class SplitPiece:
    """The file of a part of the split: 0 is training, 1 validation and 2 the test."""

    path: str
    part: int
    settings: SplitsData

    @property
    def files(self) -> list[str]:
        return [self.path]

    def without(self, files: Container[str]) -> "SplitPiece | None":
        return None if self.path in files else self

    def blocks(self, limits: Limits, careful: bool = False) -> Iterator[SourceTable]:
        dialect, columns = layout_of(self.path, self.settings.columns)
        rules = LogRules(Conventions(click_at_least=self.settings.click_at_least), part=self.part)
        for raw in csv_blocks(self.path, limits, dialect, careful):
            yield convert_log(raw, columns, rules)


def read(settings: SplitsData, run: StageRun) -> RawDataset:
    """The log, and a catalog of all items that it or the features have. Raises `TableError` when a file can't be read."""
    log, items = log_of(settings)
    return RawDataset(Source.of(SourceTable.of(f"the items of {log.name}", _catalog(items, settings.features))), log)


def log_of(settings: SplitsData) -> tuple[Source, pa.Array]:
    """The log, and the items that it has. Raises `TableError` when a file can't be read."""
    paths = ((settings.train, 0), (settings.validation, 1), (settings.test, 2))
    pieces = [SplitPiece(path, part, settings) for path, part in paths if path]
    rows, items = 0, pa.array([], TEXT)
    for piece in pieces:
        for block in _blocks(piece):
            rows += block.read
            items = pa.chunked_array([items, *block.table["video_id"].chunks], TEXT).unique().drop_null()
    return Source(", ".join(piece.path for piece in pieces), pieces, rows), items


def files(settings: SplitsData) -> list[str]:
    """Every file that the config names."""
    return [path for path in (settings.train, settings.validation, settings.test, *settings.features.values()) if path]


def layout_of(path: str, given: list[str]) -> tuple[Dialect, dict[str, str]]:
    """How a file is written, and its columns: our names, or the user's own, -> those in the file.

    A first row that names a user and an item is a header; otherwise the columns are `given`. Raises `TableError` for a file whose
    first row has neither tabs nor commas, or more or fewer columns than are given.
    """
    with open_stream(path, TableError) as stream:
        line = stream.read(FIRST_LINE).removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode(errors="replace").rstrip("\r")
    delimiter = "\t" if "\t" in line else ","
    cells = line.split(delimiter)
    if len(cells) < 2:
        raise TableError(f"{path}: the first row, {line[:80]!r}, has neither tabs nor commas between a user and an item")
    plain = {re.sub("[^a-z0-9]", "", cell.lower()): cell for cell in reversed(cells)}
    user, video = (next((plain[name] for name in NAMES[ours] if name in plain), None) for ours in ("user_id", "video_id"))
    if user and video:
        named = {"user_id": user, "video_id": video}
        own = {cell: cell for cell in cells if cell not in named.values()}
        return Dialect(None, delimiter, quotes=delimiter == ","), named | own
    if len(cells) != len(given):
        raise TableError(
            f"{path}: the first row, {line[:80]!r}, has {len(cells)} columns, and `dataset.columns` names {len(given)} "
            f"({', '.join(given)}); name all of them in their order, or give the file a header"
        )
    return Dialect(list(given), delimiter, quotes=delimiter == ","), {name: name for name in given}


def _blocks(piece: SplitPiece) -> list[SourceTable]:
    try:
        return list(piece.blocks(Limits()))
    except Damaged:
        return list(piece.blocks(Limits(), careful=True))


def _catalog(items: pa.Array, features: dict[str, str]) -> pa.Table:
    """A row for each item: by number if there are features, otherwise in the order in which they come up.

    Raises `TableError` for a feature that has the name of another column, and for an item that has no row among the vectors.
    """
    if not features:
        return pa.table({"video_id": items})
    vectors = {}
    for name, path in features.items():
        if name in tables.spec_of("catalog").schema.names:
            raise TableError(f"dataset.features: the catalog has a column {name!r} already; give the vectors another name")
        vectors[name] = read_vectors(path)
    count = max(map(len, vectors.values()))
    ids = pa.array([str(number) for number in range(count)], TEXT)
    unknown = items.filter(pa.compute.invert(pa.compute.is_in(items, value_set=ids)))
    if len(unknown):
        raise TableError(
            f"dataset.features: the item {unknown[0].as_py()!r} has no vector; the rows of a file belong to the items 0, 1, 2, "
            f"..., and there are {count}"
        )
    return pa.table({"video_id": ids} | {name: _as_lists(rows, count) for name, rows in vectors.items()})


def read_vectors(path: str) -> np.ndarray:
    """The array in a file of NumPy's: float32 [rows, size]. Raises `TableError` for any other content; nothing is unpickled."""
    try:
        with open_input(path, TableError) as stream:
            found = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{path}: not a readable file of NumPy's (.npy): {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu":
        raise TableError(f"{path}: a file of features holds one array of numbers with a row for each item")
    vectors = found.astype(np.float32)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise TableError(f"{path}: row {row} holds a number that is not finite")
    return vectors


def _as_lists(vectors: np.ndarray, count: int) -> pa.Array:
    """`count` lists of float32, null for items behind the last vector."""
    rows, size = vectors.shape
    ends = np.minimum(np.arange(count + 1), rows) * size
    missing = pa.array(np.arange(count) >= rows)
    return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(vectors.ravel()), mask=missing)


DATASET = Dataset(read, files)
