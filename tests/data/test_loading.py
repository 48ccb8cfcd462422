"""A ranker's rows come from the workspace: the columns that it needs, and an error for a column that is missing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import Config, Ranker, Split
from rayrec.data.loading import RankingData, join_items, prepare
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.encoded import whole_log

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


def data_for(workspace: Workspace, ranker: Ranker) -> RankingData:
    return whole_log(workspace, Config(workspace=workspace.uri, ranker=ranker))


def test_side_columns_become_fields(workspace: Workspace) -> None:
    settings = Ranker(item_fields=["channel"], context_fields=["device"])
    data = data_for(workspace, settings)
    assert list(data.items.categorical) == ["video_id", "channel"]
    assert data.context_encoder.sizes == {"device": 10}


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


def test_a_column_of_the_catalog_gives_way_to_ours_of_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(run: StageRun) -> None:
        write_log(run)
        ids = [f"v{i}" for i in range(9)]
        run.write("catalog", pa.table({"video_id": ids, "topics": list("abcabcabc"), "image": [f"{i}.jpg" for i in ids]}))
        run.write("topics", pa.table({"video_id": ids, "topics": [[i % 2] for i in range(9)], "similarity": [[0.5]] * 9}))
        run.write("vectors", pa.table({"video_id": ids, "image": [[float(i)] for i in range(9)]}))

    workspace = Workspace(tmp_path)
    for stage in ("ingest", "topics", "reduce"):
        run_stage(workspace, Stage(stage, write, writes=("catalog", "interactions", "topics", "vectors")), Config())
    data = data_for(workspace, Ranker(item_fields=["topics"], modalities=["image"]))
    assert (list(data.items.multivalued), list(data.items.vectors)) == (["topics"], ["image"])
    assert "the catalog's column 'topics' is not used, since the ranker reads rayrec's own" in caplog.text
    data = data_for(workspace, Ranker(item_fields=["topics", "image"], topics=False))
    assert list(data.items.categorical) == ["video_id", "topics", "image"]
