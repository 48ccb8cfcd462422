"""Takes the batches of models of pairs apart into plain numbers."""

from collections.abc import Iterator

import numpy as np

from rayrec.data.batches import Batch
from rayrec.ranking.pairs import Pairs
from tests.ranking.impressions import split

Vector = list[float]


def pairs_of(pairs: Pairs, batch: Batch) -> Iterator[tuple[tuple[int, int], tuple[Vector, Vector]]]:
    """Each (b, n) of a batch with the vectors of its user and its video: sums over their fields, which `pairs.inputs` embeds."""
    x, size = pairs.inputs(batch), pairs.inputs.dim
    for b, n in np.ndindex(*batch.candidates.shape):
        user, item = (
            [sum(column) for column in zip(*split(fields.tolist(), size), strict=True)]
            for fields in (x.request_BR[b], x.candidates_BNE[b, n])
        )
        yield (b, n), (user, item)
