"""What is handed to Ray Data. Without Ray."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from rayrec.stages.on_ray import data


@pytest.mark.parametrize(("rows", "decoders"), [(1, 1), (4, 1), (5, 2), (40, 3)])
def test_no_decoder_starts_that_would_have_nothing_to_do(monkeypatch: pytest.MonkeyPatch, rows: int, decoders: int) -> None:
    """Ray Data warns the user of one."""

    def from_arrow(blocks: list[pa.Table]) -> SimpleNamespace:
        assert sum(block.num_rows for block in blocks) == rows
        return SimpleNamespace(map_batches=lambda work, **settings: settings["compute"])

    monkeypatch.setattr(data.ray.data, "from_arrow", from_arrow)
    table = pa.table({"uri": ["clip.mp4"] * rows})
    pool = data.decoded(table, lambda rows, settings: rows, None, block=4, pool=(3, 8), timeout_s=1.0)
    assert (pool.min_size, pool.max_size) == (decoders, 8)
