"""What commands print about rows and files that a stage could not use."""

from pathlib import Path

import pytest

from rayrec.cli.stages import rejects, run_and_show
from rayrec.config import load
from rayrec.stages.ingest import STAGE

SHOWN = "user_id,video_id,shown_at,clicked\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose log has seven rows that are good and seven that are not."""
    (tmp_path / "catalog.csv").write_text("video_id,title\nv1,One\n")
    bad = ["ann,ghost,1700000000,0", ",v1,1700000000,0", *(f"ann,v1,{time},0" for time in ("soon", "late", "then", "now", "never"))]
    (tmp_path / "log.csv").write_text(SHOWN + "\n".join(["ann,v1,1700000000,0"] * 7 + bad) + "\n")
    path = tmp_path / "my.yaml"
    path.write_text(
        f"workspace: {tmp_path}/space\nmax_rejects: 0.6\n"
        f"dataset: {{kind: files, catalog: {tmp_path}/catalog.csv, interactions: {tmp_path}/log.csv}}\n"
    )
    return path


def test_the_first_rejects_are_printed_with_file_row_column_and_reason(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_and_show([STAGE], load(config), force=False)
    printed = capsys.readouterr().out.splitlines()
    begin = printed.index("ingest: 7 rejects, which the stage went on without:")
    assert len(printed[begin:]) == 1 + 5 + 1
    assert any("`rayrec rejects CONFIG` prints them all" in line for line in printed)
    rejects(config)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "ingest: 7 rejects"
    # The numbers are those of the lines of the file, as an editor shows them.
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[9 - 1] == "ann,ghost,1700000000,0"
    assert f"  {tmp_path}/log.csv, row 9: video_id: 'ghost' is not in the catalog" in printed
    assert f"  {tmp_path}/log.csv, row 10: user_id is empty" in printed
    assert len(printed) == 1 + 7


def test_without_rejects_nothing_is_said(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rejects(config)
    assert capsys.readouterr().out == "No stage has rejected anything.\n"
    (tmp_path / "log.csv").write_text(SHOWN + "ann,v1,1700000000,0\n")
    run_and_show([STAGE], load(config), force=False)
    assert "rejects," not in capsys.readouterr().out


def test_the_table_of_stages_has_a_note_only_where_there_is_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_and_show([STAGE], load(config), force=False)
    first = capsys.readouterr().out
    assert "┃ rejects ┃\n" in first
    run_and_show([STAGE], load(config), force=False)
    assert "unchanged, kept" in capsys.readouterr().out
