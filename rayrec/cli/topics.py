"""`rayrec topics ...`: learn topics, assign them to new videos, and look at them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from rayrec.cli.common import ConfigPath, Force, Overrides, console, load_config, say
from rayrec.cli.results import number
from rayrec.cli.stages import run_alone, run_and_show, stage_command
from rayrec.errors import RayrecError

if TYPE_CHECKING:
    from rayrec.topics.describing import Description


class LearnByDefault(TyperGroup):
    """`rayrec topics CONFIG` is short for `rayrec topics learn CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["learn", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=LearnByDefault,
    no_args_is_help=True,
    help="Learn topics, assign them to new videos, or look at them. "
    "`rayrec topics CONFIG` is short for `rayrec topics learn CONFIG`.",
)
app.command("learn")(stage_command("topics", "Learn topics from the vectors, titles and tags of the videos."))


@app.command()
def assign(config: ConfigPath, overrides: Overrides = None) -> None:
    """Assign the known topics to the videos of a catalog that has grown, without any training."""
    from rayrec.stages.topics import ASSIGN

    run_and_show([ASSIGN], load_config(config, overrides), force=False)


@app.command()
def report(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """Write a web page about the topics: words, covers, a map, and how well they agree with known classes."""
    from rayrec.stages.topic_report import REPORT, SCORES, STAGE
    from rayrec.workspace.files import from_json

    workspace, folder = run_alone(STAGE, load_config(config, overrides), force)
    show_representations(from_json(workspace.read_file(f"{folder}/{SCORES}")))
    say(f"The page: {folder}/{REPORT}")


@app.command()
def show(
    config: ConfigPath,
    overrides: Overrides = None,
    topic: Annotated[int | None, typer.Option(help="Only this topic, with its most typical videos.")] = None,
) -> None:
    """Print what each topic is about."""
    import numpy as np

    from rayrec.topics.describing import describe
    from rayrec.workspace.versions import Workspace

    workspace = Workspace(load_config(config, overrides).workspace)
    catalog = workspace.read("catalog")
    centres = workspace.read("topic_centres")["centre"].to_numpy()
    described = describe(catalog, workspace.read("topics"), np.stack(centres)) if len(centres) else []
    if topic is not None and not 0 <= topic < len(described):
        known = f"topics are numbered from 0 to {len(described) - 1}" if described else "this workspace has no topics"
        raise RayrecError(f"there is no topic {topic}; {known}")
    if topic is None:
        show_topics(described)
    else:
        show_topic(described[topic], dict(zip(catalog["video_id"].to_pylist(), catalog["title"].to_pylist(), strict=True)))


def show_topics(described: "list[Description]") -> None:
    table = Table("topic", "videos", "words", "tags", "nearest (cosine similarity)", title="topics", title_justify="left")
    for one in described:
        nearest = ", ".join(f"{other} ({likeness:.2f})" for other, likeness in one.nearest)
        table.add_row(str(one.topic), f"{one.videos:,}", ", ".join(one.words[:5]), ", ".join(one.tags[:5]), nearest)
    console.print(table)


def show_topic(one: "Description", titles: dict[str, str | None]) -> None:
    show_topics([one])
    table = Table("video", "title", title="its most typical videos", title_justify="left")
    for video in one.typical_videos:
        table.add_row(video, titles[video] or "")
    console.print(table)


def show_representations(scores: dict[str, dict[str, dict[str, float | None]]]) -> None:
    """Print how well each representation agrees with known classes; `scores` is representation -> kind of class -> metric."""
    for kind in next(iter(scores.values()), {}):
        title = f"compared with the {kind}: learned on 90 % of the videos, scored on the others"
        table = Table("representation", "ARI", "NMI", "inter / intra distance", title=title, title_justify="left")
        for name, found in scores.items():
            table.add_row(name, *(number(value, 3) for value in found[kind].values()))
        console.print(table)
