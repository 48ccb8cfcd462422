"""Ratings of a small log against its rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.collaborative.rating_log import HeldOut, read_ratings
from rayrec.config import load
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.training.small_log import USERS, catalog, interactions

ROWS = 600


def log(rated: bool) -> pa.Table:
    """A log in which every tenth row has no rating."""
    found = interactions(ROWS)
    ratings = [None if row % 10 == 9 else float(row % 6) for row in range(ROWS)]
    return found.append_column("rating", pa.array(ratings, pa.float32())) if rated else found


def workspace_of(folder: Path, rated: bool = True) -> Workspace:
    def write(run: StageRun) -> None:
        run.write("catalog", catalog())
        run.write("interactions", log(rated))
        run.write("users", pa.table({"user_id": [f"u{i}" for i in range(USERS)], "kind": [str(i % 4) for i in range(USERS)]}))
        run.count(ROWS, ROWS)

    config = load(None, [f"workspace={folder}"])
    run_stage(Workspace(config.workspace), Stage("ingest", write, writes=("catalog", "interactions", "users")), config)
    run_stages([load_stage("encode")], config)
    return Workspace(config.workspace)


@pytest.mark.parametrize(("held_out", "first", "last"), [("validation", 480, 540), ("test", 540, 600)])
def test_ratings_before_a_split_and_those_of_it(tmp_path: Path, held_out: HeldOut, first: int, last: int) -> None:
    workspace = workspace_of(tmp_path)
    encoded = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    pieces = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
    data = read_ratings(workspace, pieces, encoded, load(None).split, held_out)
    rows = log(True).to_pylist()
    users, items = ([None, *known.ids.to_pylist()] for known in (encoded.users, encoded.items))
    for found, part in ((data.train, rows[:first]), (data.held_out, rows[first:last])):
        expected = {(row["user_id"], row["video_id"]): row["rating"] for row in part if row["rating"] is not None}
        triples = zip(found.user, found.item, found.rating, strict=True)
        assert {(users[user], items[item]): rating for user, item, rating in triples} == expected
        assert len(found) == len(expected)
    assert data.user_fields_UF.shape == (USERS + 1, 4)
    kinds = [users[user] for user in np.flatnonzero(data.user_fields_UF[:, 0])]
    assert len({int(str(name)[1:]) % 4 for name in kinds}) == 1
    assert data.item_fields_IF.shape == (61, 4)  # the four tags


def test_a_log_without_ratings_has_none(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, rated=False)
    encoded = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    pieces = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
    data = read_ratings(workspace, pieces, encoded, load(None).split, "test")
    assert len(data.train) == len(data.held_out) == 0
