"""`rayrec experiment ...`: the experiments of the service."""

import time
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from rayrec.cli.common import ConfigPath, Overrides, console, counted, load_config, say

if TYPE_CHECKING:
    from rayrec.serving.rollout.experiment_status import Compared, ExperimentStatus

app = typer.Typer(no_args_is_help=True, help="Show how the experiments of the service stand.")


@app.callback()
def group() -> None:
    """Makes `status` a subcommand: a group of one command would otherwise be that command."""


@app.command()
def status(config: ConfigPath, overrides: Overrides = None) -> None:
    """Show for each experiment what the users of its arms did, and what that proves. You may look at any time."""
    from rayrec.serving.rollout.experiment_status import read_statuses

    for each in read_statuses(load_config(config, overrides), int(time.time() * 1000)):
        show(each)


def show(experiment: "ExperimentStatus") -> None:
    """Print the arms of an experiment, and how their metrics compare with the control's."""
    state = "runs" if experiment.running else "is over"
    title = f"{experiment.name} ({state}{f', until {experiment.until}' if experiment.until and experiment.running else ''})"
    table = Table("arm", "share", "users", "impressions", "clicks", "watch time", title=title, title_justify="left")
    for arm in experiment.arms:
        counts = [f"{count:,}" for count in (arm.users, arm.impressions, arm.clicks)]
        table.add_row(arm.arm, f"{100 * arm.share:g}%", *counts, f"{arm.watch_s:,.0f} s")
    console.print(table)
    table = Table("metric", "arm", "value", "gain", "95 % interval", "p-value", "can be found")
    for number in range(len(experiment.arms[0].metrics)):
        for arm in experiment.arms:
            table.add_row(arm.metrics[number].metric, arm.arm, *_numbers(arm.metrics[number]))
    console.print(table)
    if experiment.mismatch:
        say(
            f"The arms of {experiment.name} do not have their shares of the users (p-value {experiment.mismatch_p_value:.2g}): "
            "some users are lost or counted twice, so no gain means anything. Find the cause first."
        )
    if experiment.several:
        verb = "was" if experiment.several == 1 else "were"
        left = f"{counted(experiment.several, 'user')} {verb} in several arms of {experiment.name} and left out"
        say(f"{left}; the config has changed.")


def _numbers(found: "Compared") -> list[str]:
    """A row of the table, from the value on."""
    value = "-" if found.value is None else f"{found.value:.4g}"
    if found.gain is None or found.low is None or found.high is None or found.p_value is None or found.detectable is None:
        return [value, "-", "-", "-", "-"]
    interval = f"{found.low:+.1%} to {found.high:+.1%}"
    p_value = "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
    return [value, f"{found.gain:+.1%}", interval, p_value, f"{found.detectable:+.1%}"]
