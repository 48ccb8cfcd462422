"""Workspace: a stage's output appears at once or not at all, is kept while nothing changed, and can be resumed."""

import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import Config
from rayrec.stages.pipeline import ON_DEMAND, ROAD, load_stage
from rayrec.tables import TRUTH
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import KEPT_VERSIONS, Workspace, WorkspaceError


def ingest(run: StageRun) -> None:
    run.write("catalog", pa.table({"video_id": [f"v{run.config.seed}", "w"]}))
    run.count(rows_in=2, rows_out=2)


INGEST = Stage("ingest", ingest, writes=("catalog",))


@pytest.fixture(params=["local", "memory"])
def workspace(request, tmp_path):
    return Workspace(tmp_path / "space" if request.param == "local" else f"memory://{tmp_path.name}")


def test_a_stage_is_kept_while_nothing_changed(workspace):
    first, done = run_stage(workspace, INGEST, Config())
    assert done
    assert (first.rows_in, first.tables) == (2, {"catalog": 2})
    again, done = run_stage(workspace, INGEST, Config())
    assert not done
    assert again == first
    assert run_stage(workspace, INGEST, Config(), force=True)[0].version != first.version
    assert run_stage(workspace, INGEST, Config(seed=8))[1]
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v8", "w"]


def test_a_changed_input_or_source_redoes_the_stage(workspace):
    seen = []
    facts = [1]

    def count(run: StageRun) -> None:
        seen.append(run.read("catalog").num_rows)

    extract = Stage("extract", count, reads=("catalog",), sources=lambda workspace, config: list(facts))
    run_stage(workspace, INGEST, Config())
    assert [run_stage(workspace, extract, Config())[1] for _ in range(2)] == [True, False]
    run_stage(workspace, INGEST, Config(), force=True)
    assert run_stage(workspace, extract, Config())[1]
    facts.append(2)
    assert run_stage(workspace, extract, Config())[1]
    assert len(seen) == 3


def test_a_failed_stage_leaves_the_old_version_and_resumes_in_its_folder(workspace):
    run_stage(workspace, INGEST, Config())
    attempts = []

    def stumble(run: StageRun) -> None:
        attempts.append((run.version, run.fs.get_file_info(f"{run.folder}/part").is_file))
        run.write_file("part", b"half")
        if len(attempts) == 1:
            raise RuntimeError("killed")
        ingest(run)

    config = Config(seed=9)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(workspace, Stage("ingest", stumble, writes=("catalog",)), config)
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v7", "w"]
    run_stage(workspace, Stage("ingest", stumble, writes=("catalog",)), config)
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v9", "w"]
    assert attempts[0][0] == attempts[1][0]
    assert [there for _, there in attempts] == [False, True]


def test_old_versions_go_and_an_older_one_can_be_switched_to(workspace):
    for seed in range(5):
        run_stage(workspace, INGEST, Config(seed=seed))
    kept = workspace.versions("ingest")
    assert [manifest.settings["seed"] for manifest in kept] == [2, 3, 4][-KEPT_VERSIONS:]
    workspace.switch("ingest", kept[0].version)
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v2", "w"]
    with pytest.raises(WorkspaceError, match="no finished version 'nonsense'"):
        workspace.switch("ingest", "nonsense")


def test_what_is_missing_is_named_with_the_command_that_makes_it(workspace):
    with pytest.raises(WorkspaceError, match="run `rayrec ingest` first"):
        workspace.read("catalog")
    run_stage(workspace, INGEST, Config())
    with pytest.raises(WorkspaceError, match="wrote no table 'users'"):
        workspace.read("users")


def test_undeclared_tables_can_be_neither_read_nor_written(workspace):
    run_stage(workspace, INGEST, Config())
    with pytest.raises(WorkspaceError, match="'topics' does not declare table 'catalog'"):
        run_stage(workspace, Stage("topics", lambda run: print(run.read("catalog"))), Config())
    with pytest.raises(WorkspaceError, match="does not declare table 'features'"):
        run_stage(workspace, Stage("topics", lambda run: run.write("features", tables.empty("features"))), Config())


def test_only_evaluate_may_read_the_truth():
    readers = {stage.name for stage in map(load_stage, (*ROAD, *ON_DEMAND)) if set(TRUTH) & {*stage.reads, *stage.may_read}}
    assert readers == {"evaluate"}


@pytest.mark.parametrize(("bad", "good", "fails"), [(1, 9, False), (2, 8, True), (3, 0, True)])
def test_too_many_rejects_fail_the_stage_and_say_where_to_look(workspace, bad, good, fails):
    rejects = pa.table({"stage": ["ingest"] * bad, "source": ["a.csv"] * bad, "reason": ["torn"] * bad})
    stage = Stage("ingest", lambda run: run.count(bad + good, good, rejects))
    if fails:
        with pytest.raises(WorkspaceError, match=rf"{bad} of {bad + good} rows are bad .*a.csv: torn.*/rejects"):
            run_stage(workspace, stage, Config())
        assert workspace.manifest("ingest") is None
    else:
        assert run_stage(workspace, stage, Config())[0].rejects == bad
        assert workspace.rejects("ingest")["reason"].to_pylist() == ["torn"]


def test_relative_workspaces_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace("here").uri == str(tmp_path / "here")
    assert open_filesystem("memory://x/y")[1].strip("/") == "x/y"
