"""The stage `off_policy`: what another ranker would be clicked at the places that explore, from a log in which it chose nothing.

The log is one that the service exported. Without one, people of the synthetic world browse: their log is judged in the same way,
and the truth stands beside it, since the other ranker can choose for more people of that world.
"""

from typing import Any

import numpy as np

from rayrec.config import Config, ConfigError, Formula, WorldData, dump, settings_of
from rayrec.data.context import DAY_MS
from rayrec.data.encoders import published_at
from rayrec.data.loading import RANKER, joined_items
from rayrec.data.shards import EncodedLog
from rayrec.datasets.synthetic.crowd import Crowd
from rayrec.datasets.synthetic.simulation import START_MS, make_videos
from rayrec.datasets.synthetic.world import taxonomy_of
from rayrec.errors import RayrecError
from rayrec.evaluation import drawn_log
from rayrec.evaluation.ab_test import Arm, Memory
from rayrec.evaluation.drawn_places import DrawnPlaces
from rayrec.evaluation.drawn_report import DrawnResult, picture, table
from rayrec.evaluation.exploring import ExploringPlatform
from rayrec.evaluation.pages import Counters
from rayrec.ranking.scorer import Scorer
from rayrec.recall.items import ItemData
from rayrec.recall.pipeline import RecallPipeline
from rayrec.serving.bundle import load_scorer, locate
from rayrec.workspace.files import open_filesystem, to_json
from rayrec.workspace.stage import NEEDED, Stage, StageRun
from rayrec.workspace.versions import Workspace

RESULTS, TABLE, PICTURE = "results.json", "results.md", "off_policy.png"


def judge(run: StageRun) -> None:
    """The work of the stage: writes the estimates as JSON, a table in Markdown and a picture."""
    settings = run.config.off_policy
    found = DrawnResult.of(*(_simulated(run) if settings.log is None else (_logged(run, settings.log), None)))
    run.write_file(RESULTS, to_json(found.facts(), indent=1))
    run.write_file(TABLE, table(found).encode())
    run.write_file(PICTURE, picture(found))
    run.count(rows_in=found.places, rows_out=found.matches)


def check(config: Config) -> None:
    """Raises `ConfigError` where there is no log and nobody to make one, or where nothing would explore."""
    if config.off_policy.log is not None:
        return
    if not isinstance(config.dataset, WorldData):
        raise ConfigError("off_policy.log: name the folder that `rayrec events export CONFIG --to FOLDER` fills")
    if not config.selection.explore:
        raise ConfigError("off_policy: no place would explore; set `selection.explore`, for instance to 0.1")


def settings(config: Config) -> dict[str, Any]:
    """The settings on which the stage depends."""
    found = {"off_policy": dump(config.off_policy)}
    sections = () if config.off_policy.log is not None else (config.recall, config.dataset)
    return found | settings_of(config.selection, *sections)


def sources(workspace: Workspace, config: Config) -> list[Any]:
    """The facts about the log's files, so that a longer log redoes the stage."""
    if config.off_policy.log is None:
        return []
    fs, folder = open_filesystem(config.off_policy.log)
    found = fs.get_file_info(drawn_log.day_files(fs, folder))
    return [(item.path, item.size, item.mtime_ns) for item in found]


def _logged(run: StageRun, log: str) -> DrawnPlaces:
    """The places of an exported log."""
    fs, folder = open_filesystem(log)
    paths = drawn_log.day_files(fs, folder)
    rows = drawn_log.drawn_rows(fs, paths)
    users = rows["user_id"].combine_chunks().unique()
    clicks = drawn_log.clicks_of(users, (fs, paths), (run.fs, run.parts("interactions")))
    return drawn_log.places_of(rows, clicks, _judged(run), run.config.selection.score)


def _judged(run: StageRun) -> Scorer:
    """The other ranker, as it was published, or over the videos of the catalog."""
    version, formula = run.config.off_policy.version, run.config.selection.score
    scorer = _trained(run) if version is None else load_scorer(run.fs, locate(run.workspace, version)[1])
    if formula is not None and scorer.settings.goals:
        try:
            Formula.parse(formula, list(scorer.settings.goals))
        except ValueError as error:
            raise RayrecError(f"selection.score: {error}; the ranker that is judged was trained with other goals") from error
    return scorer


def _trained(run: StageRun) -> Scorer:
    scorer = Scorer.load(run.fs, f"{run.input_folder('train')}/{RANKER}")
    return scorer.with_items(joined_items(run, scorer.settings))


def _simulated(run: StageRun) -> tuple[DrawnPlaces, DrawnPlaces]:
    """The places that simulated people saw: those that were drawn, and those for which the other ranker chose."""
    config, world, own = run.config, run.config.dataset, _trained(run)
    assert isinstance(world, WorldData)
    settings, begin = config.off_policy, START_MS + world.days * DAY_MS  # at the midnight after the log
    other = _judged(run)
    other = other.with_items(joined_items(run, other.settings))  # the items of both must be the same
    catalog, topics = run.read("catalog"), run.read_if_there("topics")
    items = ItemData.of_tables(own.item_ids, catalog, topics, lambda: run.read_if_there("embeddings"))
    goals = list(own.settings.goals)
    arm = Arm(RecallPipeline(config.recall, config.selection, items), own, config.recall, goals, config.selection.score)
    counters = Counters.of_days(EncodedLog.open(run.fs, run.input_folder("encode")).daily, len(own.item_ids))
    clicks = max(config.recall.clicks, own.model.window.reach, other.model.window.reach)
    available = published_at(catalog) < begin
    available[0] = False
    taxonomy = taxonomy_of(world)
    stock = make_videos(world, taxonomy, config.seed).stock

    def browsed(chooses: bool) -> DrawnPlaces:
        people = Crowd.of(world, taxonomy, stock, settings.people, settings.days, config.seed, int(chooses))
        memory = Memory.new(settings.people, len(available), clicks, counters)
        platform = ExploringPlatform(
            people, {"all": arm}, memory, available, begin, settings.k, config.seed + chooses,
            other=other, chooses=chooses, formula=config.selection.score,
        )  # fmt: skip
        platform.browse(range(settings.days), np.full(settings.people, "all", dtype=object))
        found = platform.drawn()
        if not len(found):
            raise RayrecError(
                "off_policy: no video was drawn, because none is fresh; raise recall.min_exposures (a video with fewer is fresh)"
            )
        return found

    return browsed(chooses=False), browsed(chooses=True)


STAGE = Stage(
    "off_policy",
    judge,
    reads=("catalog", "interactions"),
    may_read=("users", "topics", "vectors", "embeddings"),
    after=("train", "encode"),
    settings=settings,
    sources=sources,
    check=check,
    log=NEEDED,
)
