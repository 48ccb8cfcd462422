"""What `--help` says."""

import pytest
from typer.testing import CliRunner

from rayrec.cli import app

COMMANDS = [[], ["run"], ["train"], ["topics"], ["topics", "show"], ["serve"], ["swap"], ["events", "export"], ["init"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_no_types_of_python(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "150"})
    assert shown.exit_code == 0
    assert "<bool>" not in shown.output
    assert "list[" not in shown.output


def test_help_keeps_the_types_of_values() -> None:
    shown = CliRunner().invoke(app, ["swap", "--help"], env={"COLUMNS": "150"}).output
    assert "<float>" in shown
    assert "KEY=VALUE" in shown


def test_the_help_of_topics_says_what_is_short_for_learn() -> None:
    shown = CliRunner().invoke(app, ["topics", "--help"], env={"COLUMNS": "150"}).output
    assert "`rayrec topics CONFIG` is short for `rayrec topics learn CONFIG`" in " ".join(shown.split())
