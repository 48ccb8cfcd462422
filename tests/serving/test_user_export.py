"""What was said of users goes back to the table of users, where it counts instead of what was known before."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.serving.state.opening import open_store
from rayrec.serving.user_export import export_users
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

START = 1_700_000_000_000  # UTC ms


def put(config: Config, **users: dict[str, object]) -> None:
    store = open_store(config)
    store.put_users({user: json.dumps(fields) for user, fields in users.items()})
    store.close()


def test_the_file_has_what_was_said_last_until_a_user_is_forgotten(state: Config, tmp_path: Path) -> None:
    put(state, ann={"age": 30}, bob={"likes": ["sea", 7], "city": "Köln", "premium": True})
    put(state, ann={"age": 31.0, "likes": "rain", "user_id": "eve"})
    done = export_users(state, str(tmp_path / "out"))
    assert done == (2, str(tmp_path / "out" / "users.parquet"))
    assert pq.read_table(done.path).to_pylist() == [
        {"user_id": "ann", "age": "31", "city": None, "likes": ["rain"], "premium": None},
        {"user_id": "bob", "age": None, "city": "Köln", "likes": ["sea", "7"], "premium": "true"},
    ]
    store = open_store(state)
    store.forget("ann")
    store.forget("bob")
    store.close()
    assert export_users(state, str(tmp_path / "out")).users == 0
    assert pq.read_table(done.path).num_rows == 0


def test_without_any_user_there_is_nothing_to_export(state: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing to export"):
        export_users(state, str(tmp_path / "out"))


@pytest.mark.parametrize("order", [["own.csv", "out"], ["out", "own.csv"]])
def test_ingest_takes_it_instead_of_what_other_files_say(tmp_path: Path, order: list[str]) -> None:
    (tmp_path / "own.csv").write_text("id,age,city\nann,30,Lima\nbob,40,Quito\n1.0,50,Lima\n")
    log = {"user_id": ["ann"], "video_id": ["v1"], "shown_at": [START], "clicked": [True]}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    pq.write_table(pa.table({"video_id": ["v1"]}), tmp_path / "catalog.parquet")
    users = ", ".join(str(tmp_path / name) for name in order)
    files = f"catalog: {tmp_path}/catalog.parquet, interactions: {tmp_path}/log.parquet, users: [{users}]"
    config = load(
        None, [f"workspace={tmp_path / 'workspace'}", f"dataset={{kind: files, {files}, users_columns: {{user_id: id}}}}"]
    )
    put(config, ann={"age": 31, "height": 1.7}, carl={"age": 20})
    put(config, **{"1": {"city": "Cusco"}})
    export_users(config, str(tmp_path / "out"))
    workspace = Workspace(config.workspace)
    manifest, _ = run_stage(workspace, load_stage("ingest"), config)
    assert manifest.rejects == 0
    found = {row.pop("user_id"): row for row in workspace.read("users").to_pylist()}
    assert found == {
        "ann": {"age": 31, "city": None, "height": 1.7},
        "bob": {"age": 40, "city": "Quito", "height": None},
        "1": {"age": None, "city": "Cusco", "height": None},
        "carl": {"age": 20, "city": None, "height": None},
    }
    put(config, bob={"age": 41})
    export_users(config, str(tmp_path / "out"))
    run_stage(workspace, load_stage("ingest"), config)
    assert {row["user_id"]: row["age"] for row in workspace.read("users").to_pylist()}["bob"] == 41
