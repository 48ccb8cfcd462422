"""A ranker's rows come from the workspace: the columns it needs, and an error for one that isn't there."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import Config, Ranker, Split
from rayrec.data.fields import DataError
from rayrec.data.loading import ranking_data
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

ROWS = 50


def write_log(run: StageRun) -> None:
    rng = np.random.default_rng(0)
    names = {name: [f"{name[0]}{number}" for number in rng.integers(0, 9, ROWS)] for name in ("user_id", "video_id", "device")}
    run.write("interactions", pa.table(names | {"shown_at": np.arange(ROWS), "clicked": rng.random(ROWS) < 0.5}))
    run.write("catalog", pa.table({"video_id": [f"v{number}" for number in range(9)], "channel": list("abcabcabc")}))
    run.count(ROWS, ROWS)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path)
    run_stage(workspace, Stage("ingest", write_log, writes=("catalog", "interactions")), Config(workspace=str(tmp_path)))
    return workspace


def test_side_columns_become_fields(workspace):
    settings = Ranker(item_fields=["channel"], context_fields=["device"])
    data = ranking_data(workspace, settings, Split())
    assert list(data.items.categorical) == ["video_id", "channel"]
    assert data.context_encoder.sizes == {"device": 10}
    assert set(data.test_log.column_names) == {"user_id", "video_id", "shown_at", "clicked", "device", "request_id"}


def test_an_unknown_context_field_is_refused(workspace):
    with pytest.raises(DataError, match=r"ranker.context_fields: table interactions has no column 'devise'; did you mean 'device'"):
        ranking_data(workspace, Ranker(context_fields=["devise"]), Split())


def test_some_columns_of_a_table(workspace):
    assert workspace.read("catalog", ["channel"]).column_names == ["channel"]
    with pytest.raises(tables.TableError, match="table catalog has no column 'chanel'; did you mean 'channel'"):
        workspace.read("catalog", ["chanel"])
