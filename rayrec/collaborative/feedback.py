"""What a collaborative model learns from: who clicked what, as a sparse matrix, and what is known of the videos beside it.

Rows are users and columns are items, by the indices of the encoded log. Row 0 is "unknown user" and column 0 "no item"; both are
empty. So nothing is translated between this room, the rankers and recall.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
from scipy import sparse

from rayrec.collaborative.ratings import RatingData
from rayrec.data.context import NO_CONTEXT
from rayrec.data.errors import DataError
from rayrec.data.examples import Examples
from rayrec.data.fields import vector_matrix
from rayrec.data.loading import TableReader
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share
from rayrec.data.vocabulary import indices_of


@dataclass(frozen=True)
class Feedback:
    """`U` users and `I` items, index 0 included."""

    likes: sparse.csr_array  # float32 [U, I]: 1 where the user clicked the item in the training split, however often
    held_out: sparse.csr_array  # float32 [U, I]: the clicks of the validation split on items that `likes` lacks
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # modality -> float32 [I, D], zeros for an item without one
    ratings: RatingData | None = None  # where the log has some

    @classmethod
    def of_ratings(cls, ratings: RatingData) -> Self:
        """Ratings alone, for models that read nothing else."""
        nothing = sparse.csr_array((ratings.users, ratings.items), dtype=np.float32)
        return cls(nothing, nothing, ratings=ratings)

    @property
    def users(self) -> int:
        return int(self.likes.shape[0])

    @property
    def items(self) -> int:
        return int(self.likes.shape[1])

    @classmethod
    def read(cls, reader: TableReader, log: EncodedLog, modalities: Sequence[str]) -> Self:
        """The clicks of a log, with vectors of these names. Raises what `of` and `read_vectors` raise."""
        return cls.of(log, read_vectors(reader, modalities, log.items.ids))

    @classmethod
    def of(cls, log: EncodedLog, vectors: dict[str, np.ndarray] | None = None) -> Self:
        """The clicks of a log. Those of training and validation are held in memory: 8 bytes for each pair of user and item.

        Raises `DataError` if nobody clicked anything in the training split.
        """
        users, items = len(log.users.ids) + 1, len(log.items.ids) + 1
        share = Share.of_all(log, NO_CONTEXT, users)
        likes, held_out = (clicked(part, users, items) for part in (share.train_in_memory(), share.validation()))
        refuse_no_clicks(likes)
        return cls(likes, without(held_out, likes), vectors or {})


def refuse_no_clicks(likes: sparse.csr_array) -> None:
    """Raises `DataError` if there is nothing to learn from."""
    if not likes.nnz:
        raise DataError("interactions: nobody clicked anything in the training split, so no model can learn who likes what")


def clicked(examples: Examples, users: int, items: int) -> sparse.csr_array:
    """The distinct pairs of a known user and a known item that was clicked: float32 [users, items], 1 for each."""
    rows = examples.clicked & (examples.user > 0) & (examples.item > 0)
    pairs = (examples.user[rows], examples.item[rows])
    found = sparse.coo_array((np.ones(len(pairs[0]), np.float32), pairs), shape=(users, items)).tocsr()  # adds up repeated pairs
    found.data[:] = 1
    return found


def without(matrix: sparse.csr_array, other: sparse.csr_array) -> sparse.csr_array:
    """The entries of a matrix of zeros and ones where another one has none."""
    left = (matrix - matrix.multiply(other)).tocsr()
    left.eliminate_zeros()
    return left


def read_vectors(reader: TableReader, names: Sequence[str], ids: pa.Array) -> dict[str, np.ndarray]:
    """Vectors of the items as `Feedback.vectors`: columns of the catalog, or else of the table `vectors`.

    `ids` are those of the items from index 1. Raises `DataError` for a name of which no video has a vector.
    """
    found = {}
    tables = [table for name in ("catalog", "vectors") if names and (table := reader.read_if_there(name)) is not None]
    for name in names:
        table = next((table for table in tables if name in table.column_names and table[name].null_count < table.num_rows), None)
        if table is None:
            raise DataError(
                f"collaborative.options: no video has vectors named {name!r}, neither in the catalog nor in the table `vectors`, "
                "which `rayrec reduce` makes; remove the name, or add such a column to the catalog"
            )
        rows = indices_of(table["video_id"], ids, 1)
        there = (rows > 0) & table[name].is_valid().to_numpy()
        given = vector_matrix(name, table[name].filter(pa.array(there)))
        found[name] = np.zeros((len(ids) + 1, given.shape[1]), np.float32)
        found[name][rows[there]] = given
    return found
