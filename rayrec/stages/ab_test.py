"""The stage `ab_test`: new people of the synthetic world browse what several arms recommend, and what they do is compared.

The people are divided into crowds, each with a platform of its own, so that Ray's workers simulate several at the same time. What
a crowd did is kept (`kept_runs`), and so is its memory after the first week, so that a test that was killed goes on.
"""

import functools
import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rayrec.config import ABTest, Config, ConfigError, WorldData, dump, settings_of, with_values
from rayrec.data.context import DAY_MS
from rayrec.data.encoders import published_at
from rayrec.data.loading import RANKER, RANKER_WITHOUT_TOPICS, joined_items
from rayrec.data.shards import EncodedLog
from rayrec.datasets.synthetic.crowd import Crowd
from rayrec.datasets.synthetic.simulation import START_MS, make_videos
from rayrec.datasets.synthetic.world import taxonomy_of
from rayrec.errors import RayrecError
from rayrec.evaluation import ab_test as testing
from rayrec.evaluation.ab_report import ABResult, page, picture, table
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.pages import Counters
from rayrec.ranking.frozen import room
from rayrec.ranking.scorer import Scorer
from rayrec.recall.items import ItemData
from rayrec.recall.pipeline import RecallPipeline
from rayrec.stages.kept_runs import Failed, Piece, Place, fingerprint, results_of, trainings
from rayrec.workspace.files import read_whole, to_json, write_whole
from rayrec.workspace.stage import NEEDED, Stage, StageRun
from rayrec.workspace.versions import Workspace

CROWD = 5_000  # people
OF_AN_ARM = ("recall", "selection")  # sections in which arms may differ
RESULTS, TABLE, PICTURE, REPORT = "results.json", "results.md", "gains.png", "index.html"
MOMENTS = TypeAdapter(list[dict[str, Any]])

log = logging.getLogger(__name__)


def compare_arms(run: StageRun) -> None:
    """The work of the stage: writes the results as JSON, a table in Markdown, a picture and a page."""
    config, settings, place = run.config, run.config.ab_test, Place.of(run)
    names, crowds = list(settings.arms), _crowds(settings)
    execute = trainings(config, [config], settings.concurrent)
    depends = [run.input_folder("train").rsplit("/", 1)[1], *_depends(config)]

    def pieces(week: int, work: Any, *more: Any) -> list[list[Moments]]:
        """What `work` finds of each crowd, which depends on `more` as well."""
        keys = [fingerprint(run, *depends, week, crowd, *more) for crowd in range(len(crowds))]
        before = [fingerprint(run, *depends, 1, crowd) for crowd in range(len(crowds))]
        named = {
            key: Piece(
                f"week {week}, crowd {crowd + 1} of {len(crowds)}", functools.partial(work, place, config, crowd, before[crowd])
            )
            for crowd, key in enumerate(keys)
        }
        found = results_of(run, named, MOMENTS, execute)
        for key in keys:
            if isinstance(failed := found[key], Failed):
                raise RayrecError(f"ab_test: {failed.reason}")
        return [[testing.moments_from_json(each) for each in found[key]] for key in keys]  # type: ignore[union-attr]

    alike = _added(pieces(1, _first_week))
    chosen = testing.nearest_groups(alike, len(names))
    log.info("ab_test: of %d groups, %s are most alike", settings.groups, ", ".join(str(group + 1) for group in chosen))
    arms = [_of_arm(config, name) for name in names]
    after = _added(pieces(2, functools.partial(_second_week, chosen=chosen), chosen, names, arms))
    found = ABResult.of(settings, chosen, alike, after)
    run.write_file(RESULTS, to_json(found.facts(), indent=1))
    run.write_file(TABLE, table(found).encode())
    run.write_file(PICTURE, picture(found))
    run.write_file(REPORT, page(found).encode())
    run.count(rows_in=settings.people, rows_out=settings.people)


def check(config: Config) -> None:
    """Raises `ConfigError` for a data set without simulated people, and for arms that can't be compared."""
    settings = config.ab_test
    if not isinstance(config.dataset, WorldData):
        raise ConfigError(f"ab_test: the people are those of `dataset.kind: world`, and this is {config.dataset.kind!r}")
    if not 2 <= len(settings.arms) <= settings.groups:
        raise ConfigError(
            f"ab_test.arms: give 2 to {settings.groups} arms (ab_test.groups), the control first, as in "
            "{popular: {recall.sources: {popular: 1}}, topics: {}}; there are " + str(len(settings.arms))
        )
    if settings.people < 10 * settings.groups:
        raise ConfigError(f"ab_test.people: {settings.people} are too few for {settings.groups} groups; take many more")
    for name in settings.arms:
        arm_config(config, name)


def arm_config(config: Config, name: str) -> Config:
    """The config of an arm. Raises `ConfigError` for keys that can't differ."""
    source = f"ab_test.arms.{name}"
    values = config.ab_test.arms[name]
    for key in values:
        if key.split(".")[0] not in OF_AN_ARM and key != "ranker.topics":
            raise ConfigError(f"{source}: {key} can't differ; only recall.*, selection.* and ranker.topics can")
    found = with_values(config, values, source)
    if config.ranker.topics and not found.ranker.topics and not config.training.without_topics:
        raise ConfigError(f"{source}: `train` makes no ranker without topics; set training.without_topics")
    if found.ranker.topics and not config.ranker.topics:
        raise ConfigError(f"{source}: `train` makes no ranker with topics; set ranker.topics")
    return found


def _depends(config: Config) -> list[Any]:
    """What the first week depends on."""
    settings = config.ab_test
    clicks = max(arm_config(config, name).recall.clicks for name in settings.arms)  # that are remembered of a person
    return [
        clicks,
        config.seed,
        dump(config.dataset),
        settings.people,
        settings.groups,
        settings.days,
        settings.k,
        _of_arm(config, next(iter(settings.arms))),
    ]


def _of_arm(config: Config, name: str) -> list[Any]:
    """The settings of an arm."""
    found = arm_config(config, name)
    return [dump(found.recall), dump(found.selection), found.ranker.topics]


def _crowds(settings: ABTest) -> list[int]:
    """How many people each crowd has."""
    count = -(-settings.people // CROWD)
    return [len(part) for part in np.array_split(np.arange(settings.people), count)]


# --- in a process of its own ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shared:
    """What all crowds of a process have in common."""

    arms: dict[str, testing.Arm]
    available: np.ndarray  # bool [I]
    counters: Counters
    clicks: int  # how many of a person's clicks are kept


@functools.lru_cache(maxsize=1)
def _shared(place: Place, config_json: str) -> _Shared:
    config, workspace = Config.model_validate_json(config_json), Workspace(place.workspace)
    train, encoded = workspace.check("train"), EncodedLog.open(workspace.fs, place.log)
    catalog, scorers = workspace.read("catalog"), dict[str, Scorer]()
    arms: dict[str, testing.Arm] = {}
    for name in config.ab_test.arms:
        own = arm_config(config, name)
        folder = RANKER if own.ranker.topics or not config.ranker.topics else RANKER_WITHOUT_TOPICS
        if folder not in scorers:
            scorer = Scorer.load(workspace.fs, f"{train}/{folder}")
            scorers[folder] = scorer.with_items(joined_items(workspace, scorer.settings))
            scorers[folder].freeze(room(scorer.device))
        topics, ids = workspace.read_if_there("topics"), scorers[folder].item_ids
        items = ItemData.of_tables(ids, catalog, topics, lambda: workspace.read_if_there("embeddings"))
        arms[name] = testing.Arm(
            RecallPipeline(own.recall, own.selection, items),
            scorers[folder],
            own.recall,
            list(scorers[folder].settings.goals),
            own.selection.score,
        )
    reach = max(*(arm.recall.clicks for arm in arms.values()), *(scorer.model.window.reach for scorer in scorers.values()))
    available = published_at(catalog) < _begin(config)
    available[0] = False
    return _Shared(arms, available, Counters.of_days(encoded.daily, len(available)), reach)


def _begin(config: Config) -> int:
    """When the first day begins: at the midnight after the log."""
    assert isinstance(config.dataset, WorldData)
    return START_MS + config.dataset.days * DAY_MS


def _platform(place: Place, config: Config, crowd: int, memory: testing.Memory | None) -> testing.Platform:
    """A crowd with its platform, at the beginning of the test or with this memory."""
    settings, world = config.ab_test, config.dataset
    assert isinstance(world, WorldData)
    shared, people = _shared(place, config.model_dump_json()), _crowds(settings)[crowd]
    taxonomy = taxonomy_of(world)
    stock = make_videos(world, taxonomy, config.seed).stock
    who = Crowd.of(world, taxonomy, stock, people, 2 * settings.days, config.seed, crowd)
    memory = memory or testing.Memory.new(people, len(shared.available), shared.clicks, shared.counters)
    return testing.Platform(who, shared.arms, memory, shared.available, _begin(config), settings.k, config.seed + crowd)


def _first_week(place: Place, config: Config, crowd: int, before: str) -> list[dict[str, Any]]:
    """What each group did while all had the first arm."""
    _, did = _after_first_week(place, config, crowd, before)
    groups = config.ab_test.groups
    return [testing.moments_to_json(each) for each in testing.moments_by_group(did, _groups(config, crowd), groups)]


def _second_week(place: Place, config: Config, crowd: int, before: str, chosen: tuple[int, ...]) -> list[dict[str, Any]]:
    """What the chosen groups did, each with its own arm; the others stay away."""
    settings, names = config.ab_test, list(config.ab_test.arms)
    memory, did_before = _after_first_week(place, config, crowd, before)
    platform, group = _platform(place, config, crowd, memory), _groups(config, crowd)
    arm_of = np.full(len(group), "", dtype=object)
    for name, each in zip(names, chosen, strict=True):
        arm_of[group == each] = name
    did = platform.browse(range(settings.days, 2 * settings.days), arm_of)
    found = testing.moments_by_group(did, group, settings.groups, did_before)
    return [testing.moments_to_json(found[each]) for each in chosen]


def _after_first_week(place: Place, config: Config, crowd: int, before: str) -> tuple[testing.Memory, np.ndarray]:
    """The memory of a platform after the first week, and what its people did in it; kept in a file of arrays."""
    fs, path = Workspace(place.workspace).fs, f"{place.folder}/memory/{before}.npz"
    if fs.get_file_info(path).is_file:
        with np.load(io.BytesIO(read_whole(fs, path)), allow_pickle=False) as arrays:
            return testing.Memory.of_arrays(arrays), arrays["did"]
    platform = _platform(place, config, crowd, None)
    did = platform.browse(range(config.ab_test.days), np.full(len(platform.crowd), next(iter(platform.arms)), dtype=object))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **(platform.memory.arrays() | {"did": did}))
    write_whole(fs, path, buffer.getvalue())
    return platform.memory, did


def _groups(config: Config, crowd: int) -> np.ndarray:
    return testing.groups_of(_crowds(config.ab_test)[crowd], config.ab_test.groups, config.seed + crowd)


def _added(crowds: list[list[Moments]]) -> list[Moments]:
    """The moments of each group over all crowds."""
    return [functools.reduce(lambda one, other: one + other, of_group) for of_group in zip(*crowds, strict=True)]


STAGE = Stage(
    "ab_test",
    compare_arms,
    reads=("catalog", "interactions"),
    may_read=("users", "topics", "vectors", "embeddings"),
    after=("train", "encode"),
    settings=lambda config: settings_of(config.recall, config.selection) | {"ab_test": dump(config.ab_test)},
    check=check,
    log=NEEDED,
)
