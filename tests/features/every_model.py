"""Runs one model on the clips of the fixture `clip_rows`, through both steps of `extract`, and checks what comes out."""

import numpy as np
import pyarrow as pa

from rayrec.config import Features
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved


def check(rows: pa.Table, features: Features, column: str, numbers: int) -> None:
    networks = load_networks(features, seed=7)
    settings = resolved(features, networks)
    found = network_rows(decode_rows(rows, settings), settings, networks)
    assert found["status"].to_pylist() == ["ok"] * rows.num_rows
    assert found["file_version"].to_pylist() == rows["file_version"].to_pylist()
    vectors = np.stack(found[column].to_pylist())
    assert vectors.shape == (rows.num_rows, numbers)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(6), axis=0)) == rows.num_rows
