"""What a bundle takes from an encoded log equals loops over its rows, and does not depend on how the shards are grouped."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rayrec.config import Config, load
from rayrec.data.context import NO_CONTEXT
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share
from rayrec.serving import user_log
from rayrec.serving.log_summary import exported_upto, exposures_and_clicks, user_table
from rayrec.serving.state.export import EXPORT
from rayrec.stages import encode
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import LOG_STARTS, catalog, interactions, write_tables

DAY_MS, MAX_CLICKS, SEEN_SINCE = 86_400_000, 4, LOG_STARTS + 2 * 3_600_000


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    config: Config = load(None, [f"workspace={tmp_path}/space", "encoding.shards=5"])
    workspace = Workspace(config.workspace)
    numbers = pa.array([str(number % 50) for number in range(interactions().num_rows)])
    log = interactions().append_column(EXPORT, numbers)
    run_stage(workspace, write_tables({"catalog": catalog(tmp_path), "interactions": log}), config)
    run_stage(workspace, encode.STAGE, config)
    return workspace


def summary(workspace: Workspace, rows: int, path: Path) -> tuple[np.ndarray, pa.Table]:
    encoded = EncodedLog.open(workspace.fs, workspace.folder("encode"))
    ids = encoded.users.ids
    shares = list(Share.in_groups(encoded, rows, NO_CONTEXT, len(ids) + 1))
    assert len(shares) == min(5, max(1, -(-interactions().num_rows // rows)))
    user_log.write(pafs.LocalFileSystem(), str(path), (user_table(share, ids, MAX_CLICKS, SEEN_SINCE) for share in shares))
    counts = np.sum([exposures_and_clicks(share, catalog(path.parent).num_rows + 1) for share in shares], axis=0)
    return counts, pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def test_a_summary_equals_loops_over_the_log(workspace: Workspace, tmp_path: Path) -> None:
    counts, users = summary(workspace, 10**6, tmp_path / "users.arrow")
    rows = workspace.read("interactions").to_pylist()
    for number, kind in enumerate(({True, False}, {True})):
        shown = {(row["video_id"], row["user_id"], row["shown_at"] // DAY_MS) for row in rows if row["clicked"] in kind}
        expected = Counter(int(video[1:]) + 1 for video, _, _ in shown)
        assert counts[number].tolist() == [expected[item] for item in range(41)]
    assert users["user_id"].to_pylist() == sorted({row["user_id"] for row in rows})
    for user in users.to_pylist():
        own = [row for row in rows if row["user_id"] == user["user_id"]]
        clicks = [row for row in own if row["clicked"]][-MAX_CLICKS:]
        assert user["clicked"] == [int(row["video_id"][1:]) + 1 for row in clicks]
        assert user["clicked_at"] == [row["shown_at"] for row in clicks]
        latest = list(dict.fromkeys(row["video_id"] for row in reversed(own) if row["shown_at"] >= SEEN_SINCE))
        assert 4 < len(latest) <= 12  # of three of five hours
        assert user["seen"] == [int(video[1:]) + 1 for video in reversed(latest)]


def test_groups_of_shards_have_the_summary_of_the_whole(workspace: Workspace, tmp_path: Path) -> None:
    counts, users = summary(workspace, 10**6, tmp_path / "whole.arrow")
    for rows in (100, 50):
        other_counts, other_users = summary(workspace, rows, tmp_path / "parts.arrow")
        assert np.array_equal(other_counts, counts)
        assert other_users.equals(users)


def test_the_last_event_of_an_export_is_known(workspace: Workspace) -> None:
    assert exported_upto(LogPieces.of(workspace.fs, workspace.part_digests("interactions"))) == 49
