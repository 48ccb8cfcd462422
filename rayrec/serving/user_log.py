"""What a bundle keeps of each user of the log: the file users.arrow, how it is written from several pieces, and how it is searched.

The file has batches of some thousand users. They are sorted by user id, within a batch and from batch to batch, so that a user is
found by binary searches in a file that is mapped into memory, without an index of millions of users.
"""

import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from rayrec.tables import TEXT

BATCH = 2**14  # users, about
USERS = pa.schema(
    {
        "user_id": TEXT,
        "clicked": pa.list_(pa.int32()),  # the last clicks, oldest first
        "clicked_at": pa.list_(pa.int64()),
        "seen": pa.list_(pa.int32()),  # the videos shown within `recall.seen_days`, in the order of the last times
    }
)


@dataclass(frozen=True)
class UserLog:
    """A user's part of the training log, as item indices."""

    clicked: np.ndarray  # int32, oldest first
    clicked_at: np.ndarray  # int64, UTC ms
    seen: np.ndarray  # int32


UNKNOWN_USER = UserLog(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32))


class UserLogs:
    """The logs of all users, in a table of sorted batches."""

    def __init__(self, table: pa.Table) -> None:
        self._batches = [batch for batch in table.select(USERS.names).to_batches() if batch.num_rows]
        self._first = [batch.column(0)[0].as_py() for batch in self._batches]  # the first user of each batch

    def find(self, user_id: str) -> UserLog:
        """A user's part of the log; `UNKNOWN_USER` for users who are not in it."""
        number = bisect_right(self._first, user_id) - 1
        if number < 0:
            return UNKNOWN_USER
        ids, *columns = self._batches[number].columns
        row = _place(ids, user_id)
        if row == len(ids) or ids[row].as_py() != user_id:
            return UNKNOWN_USER
        return UserLog(*(column[row].values.to_numpy() for column in columns))

    def with_most_clicks(self, count: int) -> list[str]:
        """The users with the longest lists of clicks, the longest first."""
        lengths = [batch.column(1).value_lengths().to_numpy() for batch in self._batches]
        starts = np.cumsum([0, *map(len, lengths)])
        rows = np.argsort(-np.concatenate(lengths), kind="stable")[:count] if lengths else np.empty(0, np.int64)
        places = zip(np.searchsorted(starts, rows, side="right") - 1, rows, strict=True)
        return [self._batches[number].column(0)[int(row - starts[number])].as_py() for number, row in places]


def write(fs: pafs.FileSystem, path: str, pieces: Iterable[pa.Table]) -> int:
    """Writes users.arrow from tables like `USERS`, each sorted by user id; a user is in one of them. Returns the number of users.

    The pieces are taken one at a time and wait on the local disk, so that only one of them is in memory.
    """
    users = 0
    with tempfile.TemporaryDirectory(prefix="rayrec-users-") as folder:
        waiting = [_mapped(piece, f"{folder}/{number}.arrow") for number, piece in enumerate(pieces)]
        # Uncompressed, so that the file can be mapped into memory and its lists read in place.
        with fs.open_output_stream(path) as stream, pa.ipc.new_file(stream, USERS) as writer:
            for batch in _merged([piece for piece in waiting if piece.num_rows]):
                writer.write_table(batch)
                users += batch.num_rows
    return users


def _mapped(piece: pa.Table, path: str) -> pa.Table:
    """A piece as a table of one batch in a file."""
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, USERS) as writer:
        writer.write_table(piece.select(USERS.names).cast(USERS).combine_chunks())
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def _merged(pieces: list[pa.Table]) -> Iterator[pa.Table]:
    """The rows of sorted pieces as sorted tables of about `BATCH` rows each, one behind the other.

    The ids are cut into ranges, of which each has a slice of every piece. The bounds come from a sample of every piece's ids.
    """
    if not pieces:
        return
    columns = [piece["user_id"].chunk(0) for piece in pieces]
    step = max(1, BATCH // len(pieces))
    sample = sorted(ids[row].as_py() for ids in columns for row in range(0, len(ids), step))
    starts = [0] * len(pieces)
    for bound in [*sample[len(pieces) :: len(pieces)], None]:
        ends = [len(ids) if bound is None else _place(ids, bound) for ids in columns]
        slices = [piece.slice(start, end - start) for piece, start, end in zip(pieces, starts, ends, strict=True)]
        yield pa.concat_tables(slices).combine_chunks().sort_by("user_id").combine_chunks()
        starts = ends


def _place(ids: pa.Array, user_id: str) -> int:
    """The row of the first id that is not smaller. UTF-8 has the order of the characters, so that ids are compared as they lie."""
    _, offsets, text = ids.buffers()
    ends = memoryview(offsets).cast("q")[ids.offset :] if offsets else memoryview(b"")
    return bisect_left(
        range(len(ids)), user_id.encode(errors="surrogatepass"), key=lambda row: bytes(text[ends[row] : ends[row + 1]])
    )
