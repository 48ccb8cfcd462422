"""The stage `compare`: trains several rankers on the same data with several seeds, and measures each on the test split.

Each run of one arm with one seed is kept as a small JSON file under a fingerprint of everything that it depends on. A comparison
that was killed therefore continues with the next run, and adding an arm trains that arm alone.
"""

import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from rayrec import __version__, tables
from rayrec.config import Config, ConfigError, Ranker, dump
from rayrec.data.context import NO_CONTEXT
from rayrec.data.encoders import published_at
from rayrec.data.loading import MAY_READ, READS, RankingData, ranking_data
from rayrec.data.negatives import negatives_of_test, with_negatives
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share
from rayrec.data.windows import HistoryGather
from rayrec.errors import RayrecError
from rayrec.evaluation.comparison import PICTURE, RESULTS, TABLE, ArmRun, Measurement, picture, provenance, table
from rayrec.evaluation.pages import Counters
from rayrec.evaluation.popularity import RECENT_CLICKS, item_scores, popularity_metrics, recent_clicks
from rayrec.evaluation.trials import TrainingSummary
from rayrec.ranking.fitting import AUC, predict, train_ranker
from rayrec.ranking.variants import variant
from rayrec.serving.cluster.connection import connect, reserved_device
from rayrec.serving.cluster.room import await_room, check_room
from rayrec.stages import encode
from rayrec.stages.execution import in_this_process
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.metrics import click_metrics
from rayrec.workspace.files import from_json, read_whole, to_json, with_nan, write_whole
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

Work = Callable[[], ArmRun]

# The ranker's settings on which its data depend (`ranking_data`).
OF_THE_DATA = ("item_fields", "context_fields", "topics", "modalities")
EVALUATION_SEED = 0  # of the negatives of the test split, which are the same for all arms and seeds
PROCESSES = "comparison: processes"  # as errors name them; `training.workers` is for `rayrec train`
KEPT = TypeAdapter(Measurement)  # the content of a run's JSON file

log = logging.getLogger(__name__)


def compare(run: StageRun) -> None:
    """The work of the stage: writes all runs as JSON, a table in Markdown, and a picture.

    Raises `RayrecError` when every arm fails.
    """
    arms, seeds = arms_of(run.config), run.config.comparison.seeds
    files = {each: f"runs/{_fingerprint(run, arms[each[0]], each[1])}.json" for each in itertools.product(arms, seeds)}
    runs = {each: kept for each, file in files.items() if (kept := _kept(run, *each, file))}
    # Arms on the same data follow one another, so that a process reads their data once.
    missing = sorted(files.keys() - runs.keys(), key=lambda each: (_data_settings(arms[each[0]]), list(files).index(each)))
    place = Place(run.workspace.uri, run.input_folder("encode"))
    work = [functools.partial(_measured, place, arm, arms[arm], seed) for arm, seed in missing]
    for number, done in _executor(run.config, arms)(work) if work else ():
        runs[missing[number]] = done
        if done.measured:
            write_whole(run.fs, f"{run.folder}/{files[missing[number]]}", to_json(asdict(done.measured), indent=1))
    _data.cache_clear()
    in_order, popular = [runs[each] for each in files], _popularity(run)
    if not any(one.measured for one in in_order):
        raise RayrecError(f"compare: no arm could be trained; {in_order[0].arm}: {in_order[0].reason}")
    run.write_file(RESULTS, to_json([asdict(one) for one in in_order], indent=1))
    run.write_file(TABLE, f"{table(in_order, popular)}\n{provenance(run.config, in_order)}\n".encode())
    run.write_file(PICTURE, picture(in_order))
    run.count(rows_in=len(in_order), rows_out=sum(one.measured is not None for one in in_order))


def arms_of(config: Config) -> dict[str, Config]:
    """The config of each arm. Raises `ConfigError` when there are no arms or one of them can't be trained."""
    if not config.comparison.arms:
        raise ConfigError("comparison.arms: there are none; give each a name and what it changes, as {din: {ranker.model: din}}")
    return {name: variant(config, values, f"comparison.arms.{name}") for name, values in config.comparison.arms.items()}


def check(config: Config) -> None:
    """Raises `ConfigError` when there are no arms, or when one of them can't be trained or asks for a GPU that is not there."""
    for arm in arms_of(config).values():
        check_room(PROCESSES, 1, gpus=arm.training.gpus_per_worker)


def settings(config: Config) -> dict[str, Any]:
    """The settings on which the stage depends."""
    sections = {name: dump(getattr(config, name)) for name in ("split", "ranker", "training")}
    return sections | {"comparison": config.comparison.model_dump(mode="json", exclude={"concurrent"})}


@dataclass(frozen=True)
class Place:
    """Where a process finds what it trains on."""

    workspace: str  # its URI
    log: str  # the folder of the encoded log


def _kept(run: StageRun, arm: str, seed: int, file: str) -> ArmRun | None:
    """The run of one arm and seed as an earlier comparison kept it."""
    for folder in filter(None, (run.folder, run.previous_folder)):
        try:
            kept = read_whole(run.fs, f"{folder}/{file}")
        except FileNotFoundError:
            continue
        write_whole(run.fs, f"{run.folder}/{file}", kept)
        return ArmRun(arm, seed, KEPT.validate_python(with_nan(from_json(kept))))
    return None


def _executor(config: Config, arms: dict[str, Config]) -> Callable[[Sequence[Work]], Iterator[tuple[int, ArmRun]]]:
    """Does the runs one after the other in this process, or, where several or GPUs are asked for, on Ray."""
    gpus, concurrent = max(arm.training.gpus_per_worker for arm in arms.values()), config.comparison.concurrent
    if concurrent == 1 and not gpus:
        return in_this_process
    from rayrec.stages.on_ray.working import share_of_cpus, work_on

    connect(config)
    if gpus:
        await_room(PROCESSES, 1, gpus=gpus)
    return functools.partial(work_on, cpus=share_of_cpus(concurrent), gpus=gpus, at_once=concurrent)


def _measured(place: Place, arm: str, config: Config, seed: int) -> ArmRun:
    """Train a ranker, and measure it on the test split. Whatever goes wrong, the other arms are still wanted."""
    try:
        return ArmRun(arm, seed, _measure(f"{arm}, seed {seed}", config, seed, _data(place, _data_settings(config))))
    except Exception as error:
        log.warning("%s, seed %d: %s", arm, seed, error, exc_info=not isinstance(error, RayrecError))
        return ArmRun(arm, seed, None, str(error) if isinstance(error, RayrecError) else f"{type(error).__name__}: {error}")


@functools.lru_cache(maxsize=1)
def _data(place: Place, settings: str) -> RankingData:
    """The data for a ranker with these `_data_settings`, which most arms share."""
    workspace = Workspace(place.workspace)
    return ranking_data(workspace, EncodedLog.open(workspace.fs, place.log), Ranker.model_validate_json(settings))


def _measure(name: str, config: Config, seed: int, data: RankingData) -> Measurement:
    """Train a ranker, and measure it on the test split."""

    def log_epoch(epochs: list[Epoch]) -> None:
        last = epochs[-1]
        log.info("%s: epoch %d, loss %.4f, validation AUC %.4f", name, last.epoch, last.loss, last.metrics[AUC])

    device = reserved_device()
    scorer, epochs = train_ranker(data, config.ranker, config.training, seed, device, TrainingCallback(log_epoch))
    gather = HistoryGather(data.clicks, scorer.model.window, device)
    negatives = negatives_of_test(config.training, data.clicks_only)
    test, _ = with_negatives(data.test, data.clicks, data.encoders.published_at, negatives, EVALUATION_SEED)
    found = click_metrics(test.user, test.clicked, predict(scorer.model, test, gather, device))
    log.info("%s: test AUC %.4f, log loss %.4f", name, found["auc"], found["log_loss"])
    return Measurement(
        auc=found["auc"],
        gauc=found["gauc"],
        log_loss=found["log_loss"],
        summary=TrainingSummary.of(epochs, len(data.train)),
        parameters=sum(weights.numel() for weights in scorer.model.parameters()),
        examples=(len(data.train), len(data.validation), len(data.test)),
    )


def _popularity(run: StageRun) -> dict[str, dict[str, float]]:
    """The click metrics of each kind of popularity, as it is known at the midnight before the test begins or before a click."""
    log = EncodedLog.open(run.fs, run.input_folder("encode"))
    items, test_at, clicks_only = len(log.items.ids) + 1, log.facts.test_at, log.facts.clicks_only
    share = Share.of_all(log, NO_CONTEXT, len(log.users.ids) + 1)
    published = published_at(run.read("catalog"), log.facts.split_by)
    negatives = negatives_of_test(run.config.training, clicks_only)
    test, _ = with_negatives(share.test()[0], share.clicks, published, negatives, EVALUATION_SEED)
    scores = item_scores(Counters.of_days(log.daily.before(test_at), items), log.daily, test_at, clicks_only)
    found = {name: score[test.item] for name, score in scores.items()}
    found[RECENT_CLICKS] = recent_clicks(log.daily, items, test.item, test.at)
    return popularity_metrics(test.user, test.clicked, found)


def _data_settings(config: Config) -> str:
    """The settings of a ranker on which its data depend, and defaults for the others."""
    return Ranker(**{name: getattr(config.ranker, name) for name in OF_THE_DATA}).model_dump_json()


def _fingerprint(run: StageRun, config: Config, seed: int) -> str:
    """A hash of what the run of an arm depends on: settings, seed, and the versions of the tables."""
    names = [*run.stage.reads, *(name for name in run.stage.may_read if run.workspace.has(name))]
    stages = sorted({tables.spec_of(name).stage for name in names})
    manifests = [run.workspace.manifest(stage) for stage in stages]
    versions = [manifest.version for manifest in manifests if manifest]
    depends = [__version__, seed, versions, *(dump(section) for section in (config.split, config.ranker, config.training))]
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


STAGE = Stage(
    "compare",
    compare,
    reads=(*READS, "interactions"),
    may_read=MAY_READ,
    after=("encode",),
    settings=settings,
    check=check,
    first=(encode.STAGE,),
)
