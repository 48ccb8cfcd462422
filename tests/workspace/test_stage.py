"""A stage runs once for its inputs and settings; its output appears at once or not at all; a killed run is resumed."""

import errno

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from rayrec import tables
from rayrec.config import Config, ConfigError
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


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "a disk is full.*make room"),
        (errno.EACCES, "can't be written: Permission denied"),
        (errno.EROFS, "can't be written: Read-only file system"),
    ],
)
def test_a_place_that_can_not_be_written_is_a_sentence(workspace: Workspace, number: int, said: str) -> None:
    def fill(run: StageRun) -> None:
        raise OSError(number, "as Arrow says it")

    with pytest.raises(WorkspaceError, match=f"ingest: .*{said}"):
        run_stage(workspace, Stage("ingest", fill), Config())


def test_an_error_that_nobody_can_mend_keeps_its_traceback(workspace: Workspace) -> None:
    def stumble(run: StageRun) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with pytest.raises(OSError, match="the disk is broken") as caught:
        run_stage(workspace, Stage("ingest", stumble), Config())
    assert not isinstance(caught.value, WorkspaceError)


def test_what_a_stage_can_not_do_is_said_before_its_inputs_are_missed(workspace: Workspace) -> None:
    def refuse(config: Config) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        run_stage(workspace, Stage("topics", ingest, reads=("catalog",), check=refuse), Config())


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
        with pytest.raises(WorkspaceError, match=rf"(?s){bad} of {bad + good} rows are bad .*a.csv: torn.*/rejects"):
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


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(workspace: Workspace) -> None:
    full = [True]

    def work(run: StageRun) -> None:
        run.write_file("part", b"half")
        if full.pop():
            raise OSError(errno.ENOSPC, "No space left on device", "part-0.parquet")
        ingest(run)

    stage = Stage("ingest", work, writes=("catalog",))
    with pytest.raises(WorkspaceError, match=r"ingest: a disk is full \(.*No space left on device.*\); make room.*goes on"):
        run_stage(workspace, stage, Config())
    full.append(False)
    assert run_stage(workspace, stage, Config())[0].files.keys() == {"catalog/part-0.parquet", "part"}


def test_a_run_whose_version_was_deleted_fails(workspace: Workspace) -> None:
    def work(run: StageRun) -> None:
        run.fs.delete_dir(run.folder)
        ingest(run)

    with pytest.raises(WorkspaceError, match=r"was deleted while it was made|somebody has deleted it"):
        run_stage(workspace, Stage("ingest", work, writes=("catalog",)), Config())
    assert workspace.manifest("ingest") is None


def test_nothing_is_taken_over_from_a_damaged_version_and_its_files_are_refused(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    previous: list[Manifest | None] = []

    def work(run: StageRun) -> None:
        previous.append(run.previous)
        run.write_file("weights", b"0123456789")
        ingest(run)

    stage = Stage("ingest", work, writes=("catalog",))
    first, _ = run_stage(workspace, stage, Config())
    run_stage(workspace, stage, Config(seed=8))
    second = workspace.manifest("ingest")
    assert previous == [None, first]
    assert second is not None
    with workspace.fs.open_output_stream(f"{workspace.root}/ingest/{second.version}/weights") as stream:
        stream.write(b"0123")
    reader = Stage("train", lambda run: print(run.input_folder("ingest")), after=("ingest",))
    with pytest.raises(WorkspaceError, match=r"weights has 4 bytes instead of 10; make it again: `rayrec ingest CONFIG --force`"):
        run_stage(workspace, reader, Config())
    with caplog.at_level("WARNING"):
        run_stage(workspace, stage, Config(seed=9))
    assert previous[2] is None
    assert "weights has 4 bytes instead of 10; nothing is taken over" in caplog.text
    assert isinstance(workspace.fs.get_file_info(workspace.check("ingest")), pafs.FileInfo)


def test_versions_share_the_parts_that_did_not_change(workspace: Workspace) -> None:
    def work(run: StageRun) -> None:
        """Each run adds one part to those that are there."""
        for path in run.previous_parts("catalog"):
            run.share(path)
        number = len(run.shared)
        run.fs.create_dir(f"{run.folder}/catalog", recursive=True)
        part = tables.validate("catalog", pa.table({"video_id": [f"v{number}"]}))
        pq.write_table(part, f"{run.folder}/catalog/part-{number:06d}.parquet", filesystem=run.fs)
        run.record_parts("catalog", number + 1)
        run.count(rows_in=number + 1, rows_out=number + 1)

    stage = Stage("ingest", work, writes=("catalog",), shares=True)
    made = [run_stage(workspace, stage, Config(seed=number))[0] for number in range(7)]
    assert workspace.read("catalog")["video_id"].to_pylist() == [f"v{number}" for number in range(7)]
    assert [manifest.tables["catalog"] for manifest in made] == [1, 2, 3, 4, 5, 6, 7]
    folders = [f"{workspace.root}/ingest/{manifest.version}/catalog" for manifest in made]  # each has a part of the last version
    assert [len(workspace.fs.get_file_info(pafs.FileSelector(folder))) for folder in folders] == [1] * 7

    with workspace.fs.open_output_stream(f"{workspace.root}/ingest/{made[2].version}/catalog/part-000002.parquet") as stream:
        stream.write(b"torn")
    with pytest.raises(WorkspaceError, match=r"part-000002.parquet has 4 bytes instead of"):
        workspace.read("catalog")
    whole, _ = run_stage(workspace, stage, Config(seed=7))  # from which nothing is taken over
    assert (whole.shared, whole.tables) == ({}, {"catalog": 1})
