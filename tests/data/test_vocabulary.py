"""Values have an index among those that are known; 0, or the first one given, is for others."""

import pyarrow as pa

from rayrec.data.vocabulary import indices_of


def test_indices_among_known_values() -> None:
    known = pa.array(["p", "q"])
    assert indices_of(pa.chunked_array([["q"], ["r", "p"]]), known, 1).tolist() == [2, 0, 1]
    assert indices_of(pa.array([None, "q"], pa.string()), known).tolist() == [0, 1]
