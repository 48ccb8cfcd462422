"""A ranker's rows come from the workspace: the columns that it needs, and an error for a column that is missing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import Config, Ranker, Split
from rayrec.data.fields import DataError
from rayrec.data.loading import join_items, prepare, ranking_data
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

ROWS = 50


def write_log(run: StageRun) -> None:
    rng = np.random.default_rng(0)
    names = {name: [f"{name[0]}{i}" for i in rng.integers(0, 9, ROWS)] for name in ("user_id", "video_id", "device")}
    run.write("interactions", pa.table(names | {"shown_at": np.arange(ROWS), "clicked": rng.random(ROWS) < 0.5}))
    run.write("catalog", pa.table({"video_id": [f"v{i}" for i in range(9)], "channel": list("abcabcabc")}))
    run.count(ROWS, ROWS)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    run_stage(workspace, Stage("ingest", write_log, writes=("catalog", "interactions")), Config(workspace=str(tmp_path)))
    return workspace


def test_side_columns_become_fields(workspace: Workspace) -> None:
    settings = Ranker(item_fields=["channel"], context_fields=["device"])
    data = ranking_data(workspace, settings, Split())
    assert list(data.items.categorical) == ["video_id", "channel"]
    assert data.context_encoder.sizes == {"device": 10}
    assert set(data.test_log.column_names) == {"user_id", "video_id", "shown_at", "clicked", "device", "request_id"}


def test_an_unknown_context_field_is_refused(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"ranker.context_fields: table interactions has no column 'devise'; did you mean 'device'"):
        ranking_data(workspace, Ranker(context_fields=["devise"]), Split())


def test_some_columns_of_a_table(workspace: Workspace) -> None:
    assert workspace.read("catalog", ["channel"]).column_names == ["channel"]
    with pytest.raises(tables.TableError, match="table catalog has no column 'chanel'; did you mean 'channel'"):
        workspace.read("catalog", ["chanel"])


def test_the_order_of_the_given_log_does_not_matter(raw: dict[str, pa.Table], settings: Ranker) -> None:
    log = raw["interactions"]
    times, first = np.unique(log["shown_at"].to_numpy(), return_index=True)  # without ties
    log = log.take(pa.array(np.sort(first)))
    items = join_items(raw["catalog"], raw["topics"], raw["vectors"], list(settings.modalities))
    given, ordered = (prepare(rows, items, raw["users"], settings, Split()) for rows in (log, log.sort_by("shown_at")))
    assert given.train.at.tolist() == times[: len(given.train)].tolist()
    ids = [[[found.items.ids[i] for i in getattr(found, part).item] for part in ("train", "test")] for found in (given, ordered)]
    assert ids[0] == ids[1]
    assert given.test.end.tolist() == ordered.test.end.tolist()
