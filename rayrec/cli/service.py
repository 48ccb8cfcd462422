"""The commands of the service and its Ray cluster: up, serve, swap, rollback, stop."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rayrec.cli.common import ConfigPath, Overrides, console, counted, load_config, moment, say
from rayrec.errors import RayrecError

if TYPE_CHECKING:
    from rayrec.serving.rollout.arms import RankerReport, Report
    from rayrec.serving.rollout.history import Swap

PANEL = "Service"
SWAPS_SHOWN = 5

app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def up(config: ConfigPath, overrides: Overrides = None) -> None:
    """Start a Ray cluster on this machine and leave it up: the workspace's stages and service then use it, and start sooner."""
    from rayrec.serving.cluster import connection

    settings = load_config(config, overrides)
    say(f"Ray runs at {connection.start(settings).dashboard}; `rayrec stop {config}` ends it.")


@app.command(rich_help_panel=PANEL)
def serve(
    config: ConfigPath,
    overrides: Overrides = None,
    status: Annotated[bool, typer.Option("--status", help="Serve nothing; only show the running service.")] = False,
) -> None:
    """Serve the published bundle on a Ray cluster on this machine, which stays up until `rayrec stop`."""
    from rayrec.serving.cluster import service

    settings = load_config(config, overrides)
    if status:
        from rayrec.serving.rollout.history import swap_history
        from rayrec.workspace.versions import Workspace

        details, reports, rankers = service.details(settings), service.reports(settings), service.ranker_reports(settings)
        show_service(details, reports, rankers, swap_history(Workspace(settings.workspace)))
        return
    say(f"The service is up at {service.serve(settings)}; `rayrec stop {config}` ends it.")


@app.command(rich_help_panel=PANEL)
def swap(
    config: ConfigPath,
    overrides: Overrides = None,
    bundle: Annotated[str | None, typer.Option(help="A published version; without it, the newest one.")] = None,
    canary: Annotated[float | None, typer.Option(help="Serve it only to this share of the users, such as 0.1.")] = None,
    decide: Annotated[bool, typer.Option("--decide", help="Wait until its users prove the canary good or bad, and act.")] = False,
    users: Annotated[int, typer.Option(min=1, help="With --decide: a canary that is not worse after so many is good.")] = 10_000,
    watch: Annotated[bool, typer.Option("--watch", help="Keep running, and move to every bundle that is published.")] = False,
) -> None:
    """Move the running service to a published bundle without dropping a request."""
    from rayrec.serving.cluster import swaps

    settings = load_config(config, overrides)
    if decide and (watch or canary is None):
        raise RayrecError("--decide waits for a canary; name its share of the users (--canary 0.1), and leave out --watch")
    if watch:
        if bundle is not None:
            raise RayrecError("--watch moves to every bundle that is published; leave out --bundle")
        swaps.watch(settings, canary, say)
    done = swaps.swap(settings, bundle, canary)
    if done is None and not decide:
        say(f"Nothing to do: {f'bundle {bundle}' if bundle else 'the newest bundle'} is served already.")
    elif done is not None:
        show_swaps([done])
    if decide:
        say("Waiting for the canary's users. You may end this command; the canary then stays as it is.")
        show_swaps([swaps.decide(settings, users, say)])


@app.command(rich_help_panel=PANEL)
def rollback(config: ConfigPath, overrides: Overrides = None) -> None:
    """End the canary; without a canary, move the running service back to the bundle before."""
    from rayrec.serving.cluster import swaps

    show_swaps([swaps.rollback(load_config(config, overrides))])


@app.command(rich_help_panel=PANEL)
def stop(config: ConfigPath, overrides: Overrides = None) -> None:
    """End the service and the Ray cluster that `rayrec run`, `rayrec serve` or `rayrec up` started."""
    from rayrec.serving.cluster import connection

    say("Stopped." if connection.stop(load_config(config, overrides)) else "Nothing was running.")


def show_service(details: dict[str, Any], recall: "list[Report]", rankers: "list[RankerReport]", history: "list[Swap]") -> None:
    """Print the replicas of the service, which bundle each has and for whom, and the last swaps. `details` are Ray Serve's."""
    bundles = {report.replica: _served(report) for report in recall} | {each.replica: ", ".join(each.bundles) for each in rankers}
    ages = {report.replica: f"{report.queue_age_s:.1f} s" for report in recall}
    title = f"service: {details['status'].lower()}"
    table = Table("replica", "node", "state", "bundle", "queues", title=title, title_justify="left")
    for name, deployment in details["deployments"].items():
        for replica in deployment["replicas"]:
            id = replica["replica_id"]
            table.add_row(f"{name} {id}", replica["node_ip"], replica["state"].lower(), bundles.get(id) or "-", ages.get(id, "-"))
    console.print(table)
    for report in recall:
        if report.refused:
            say(f"{report.replica} refuses the bundle that it was asked to serve: {report.refused}")
    if recall:
        impressions, clicks = counted(recall[0].impressions, "impression"), counted(recall[0].clicks, "click")
        say(f"In the last one to two hours: {impressions}, {clicks}.")
    if any(report.guardrails.canary for report in recall):
        say(_suffered(recall))
    show_swaps(history[-SWAPS_SHOWN:])


def show_swaps(history: "list[Swap]") -> None:
    table = Table("at (UTC)", "bundle", "canary", "share", "outcome", title="swaps", title_justify="left")
    for swap in history:
        table.add_row(moment(swap.at), swap.version, swap.canary or "-", f"{swap.share:.0%}" if swap.canary else "-", swap.outcome)
    console.print(table)


def _suffered(recall: "list[Report]") -> str:
    """Whom both bundles failed since the canary began, by all replicas that have it."""
    from rayrec.serving.rollout.arms import CANARY, STABLE
    from rayrec.serving.rollout.guardrails import FAILED, SLOW, Guardrails

    joined = Guardrails(next(report.guardrails.canary for report in recall if report.guardrails.canary))
    for report in recall:
        joined.add(report.guardrails)
    failed, slow = (
        f"{counted(joined.count(kind, CANARY), 'user')} of the canary and {joined.count(kind, STABLE):,} of the others"
        for kind in (FAILED, SLOW)
    )
    return f"Since the canary began, pages failed for {failed}; they were slow for {slow}."


def _served(report: "Report") -> str:
    """`3f2-0`, or with a canary `3f2-0 (90%), 77a-0 (10%)`."""
    from rayrec.serving.rollout.arms import CANARY, STABLE

    if CANARY not in report.bundles:
        return report.bundles[STABLE]
    return f"{report.bundles[STABLE]} ({1 - report.share:.0%}), {report.bundles[CANARY]} ({report.share:.0%})"
