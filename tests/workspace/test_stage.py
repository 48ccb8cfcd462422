"""A stage runs once for its inputs and settings; its output appears at once or not at all; a killed run is resumed."""

import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import Config
from rayrec.stages.pipeline import ON_DEMAND, ROAD, load_stage
from rayrec.tables import TRUTH
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Manifest, Workspace, WorkspaceError


def ingest(run: StageRun) -> None:
    run.write("catalog", pa.table({"video_id": [f"v{run.config.seed}", "w"]}))
    run.count(rows_in=2, rows_out=2)


INGEST = Stage("ingest", ingest, writes=("catalog",))


def test_a_stage_is_kept_while_nothing_changed(workspace: Workspace) -> None:
    first, done = run_stage(workspace, INGEST, Config())
    assert done
    assert (first.rows_in, first.tables) == (2, {"catalog": 2})
    again, done = run_stage(workspace, INGEST, Config())
    assert not done
    assert again == first
    assert run_stage(workspace, INGEST, Config(), force=True)[0].version != first.version
    assert run_stage(workspace, INGEST, Config(seed=8))[1]
    assert workspace.read("catalog")["video_id"].to_pylist() == ["v8", "w"]


def test_a_changed_input_or_source_redoes_the_stage(workspace: Workspace) -> None:
    seen: list[int] = []
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


def test_a_failed_stage_leaves_the_old_version_and_resumes_in_its_folder(workspace: Workspace) -> None:
    run_stage(workspace, INGEST, Config())
    attempts: list[tuple[str, bool]] = []

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


def test_undeclared_tables_can_be_neither_read_nor_written(workspace: Workspace) -> None:
    run_stage(workspace, INGEST, Config())
    with pytest.raises(ValueError, match="'topics' does not declare table 'catalog'"):
        run_stage(workspace, Stage("topics", lambda run: print(run.read("catalog"))), Config())
    with pytest.raises(ValueError, match="does not declare table 'features'"):
        run_stage(workspace, Stage("topics", lambda run: run.write("features", tables.empty("features"))), Config())


def test_only_reports_may_read_the_truth() -> None:
    readers = {stage.name for stage in map(load_stage, (*ROAD, *ON_DEMAND)) if set(TRUTH) & {*stage.reads, *stage.may_read}}
    assert readers == {"evaluate", "topic_report"}


@pytest.mark.parametrize(("bad", "good", "fails"), [(1, 9, False), (2, 8, True), (3, 0, True)])
def test_too_many_rejects_fail_the_stage_and_say_where_to_look(workspace: Workspace, bad: int, good: int, fails: bool) -> None:
    rejects = pa.table({"stage": ["ingest"] * bad, "source": ["a.csv"] * bad, "reason": ["torn"] * bad})
    stage = Stage("ingest", lambda run: run.count(bad + good, good, rejects))
    if fails:
        with pytest.raises(WorkspaceError, match=rf"{bad} of {bad + good} rows are bad .*a.csv: torn.*/rejects"):
            run_stage(workspace, stage, Config())
        assert workspace.manifest("ingest") is None
    else:
        assert run_stage(workspace, stage, Config())[0].rejects == bad
        assert workspace.rejects("ingest")["reason"].to_pylist() == ["torn"]


def test_a_stage_of_another_version_of_rayrec_is_redone_and_the_log_says_so(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    workspace.publish(Manifest("ingest", "old-0", "old", {}, {}, {}, 0, 0, 0, 0.0, 0, rayrec="0.1.0"))
    with caplog.at_level("INFO"):
        manifest, done = run_stage(workspace, INGEST, Config())
    assert done
    assert "ingest: the current version was made by rayrec 0.1.0" in caplog.text
    assert workspace.manifest("ingest") == manifest
