"""Compares rankers by how well they predict the clicks of the test split: `comparison.measure: clicks`."""

import functools
import itertools
import logging
from dataclasses import asdict

from pydantic import TypeAdapter

from rayrec.config import Config, Ranker, dump
from rayrec.data.context import NO_CONTEXT
from rayrec.data.encoders import published_at
from rayrec.data.loading import RankingData, ranking_data
from rayrec.data.negatives import negatives_of_test, with_negatives
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import Share
from rayrec.data.windows import HistoryGather
from rayrec.errors import RayrecError
from rayrec.evaluation.comparison import PICTURE, RESULTS, TABLE, ArmRun, Measurement, goals_table, picture, provenance, table
from rayrec.evaluation.pages import Counters
from rayrec.evaluation.popularity import RECENT_CLICKS, item_scores, popularity_metrics, recent_clicks
from rayrec.evaluation.trials import TrainingSummary
from rayrec.ranking.fitting import AUC, goal_metrics, predict, predict_goals, train_ranker
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.variants import variant
from rayrec.serving.cluster.connection import reserved_device
from rayrec.stages.kept_runs import Failed, Piece, Place, fingerprint, results_of, trainings
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.training.metrics import click_metrics
from rayrec.workspace.files import to_json
from rayrec.workspace.stage import StageRun
from rayrec.workspace.versions import Workspace

# The ranker's settings on which its data depend (`ranking_data`).
OF_THE_DATA = ("item_fields", "context_fields", "topics", "modalities", "goals")
EVALUATION_SEED = 0  # of the negatives of the test split, which are the same for all arms and seeds

log = logging.getLogger(__name__)


def compare_clicks(run: StageRun) -> None:
    """Raises `RayrecError` when every arm fails."""
    arms, seeds, place = arms_of(run.config), run.config.comparison.seeds, Place.of(run)
    pieces, names = dict[str, Piece[Measurement]](), dict[tuple[str, int], str]()
    # Arms on the same data follow one another, so that a process reads their data once.
    for arm in sorted(arms, key=lambda name: data_settings(arms[name])):
        config = arms[arm]
        for seed in seeds:
            name = names[arm, seed] = fingerprint(run, seed, *map(dump, (config.split, config.ranker, config.training)))
            pieces[name] = Piece(f"{arm}, seed {seed}", functools.partial(_measured, place, arm, config, seed))
    execute = trainings(run.config, list(arms.values()), run.config.comparison.concurrent)
    results = results_of(run, pieces, TypeAdapter(Measurement), execute)
    ranking_data_of.cache_clear()
    in_order = [_arm_run(arm, seed, results[names[arm, seed]]) for arm, seed in itertools.product(arms, seeds)]
    if not any(one.measured for one in in_order):
        raise RayrecError(f"compare: no arm could be trained; {in_order[0].arm}: {in_order[0].reason}")
    run.write_file(RESULTS, to_json([asdict(one) for one in in_order], indent=1))
    tables = [table(in_order, _popularity(run)), goals_table(in_order), provenance(run.config, in_order)]
    run.write_file(TABLE, ("\n".join(each for each in tables if each) + "\n").encode())
    run.write_file(PICTURE, picture(in_order))
    run.count(rows_in=len(in_order), rows_out=sum(one.measured is not None for one in in_order))


def arms_of(config: Config) -> dict[str, Config]:
    """The config of each arm. Raises `ConfigError` when one of them can't be trained."""
    return {name: variant(config, values, f"comparison.arms.{name}") for name, values in config.comparison.arms.items()}


def _arm_run(arm: str, seed: int, found: Measurement | Failed) -> ArmRun:
    return ArmRun(arm, seed, None, found.reason) if isinstance(found, Failed) else ArmRun(arm, seed, found)


@functools.lru_cache(maxsize=1)
def ranking_data_of(place: Place, settings: str) -> RankingData:
    """The data for a ranker with these `data_settings`, which most arms share."""
    workspace = Workspace(place.workspace)
    return ranking_data(workspace, EncodedLog.open(workspace.fs, place.log), Ranker.model_validate_json(settings))


def _measured(place: Place, arm: str, config: Config, seed: int) -> Measurement:
    """Train a ranker, and measure it on the test split."""
    name, data = f"{arm}, seed {seed}", ranking_data_of(place, data_settings(config))

    def log_epoch(epochs: list[Epoch]) -> None:
        last = epochs[-1]
        log.info("%s: epoch %d, loss %.4f, validation AUC %.4f", name, last.epoch, last.loss, last.metrics[AUC])

    device = reserved_device()
    scorer, epochs = train_ranker(data, config.ranker, config.training, seed, device, TrainingCallback(log_epoch))
    gather = HistoryGather(data.clicks, scorer.model.window, device)
    negatives = negatives_of_test(config.training, data.clicks_only)
    test, _ = with_negatives(data.test, data.clicks, data.encoders.published_at, negatives, EVALUATION_SEED)
    goals: dict[str, dict[str, float]] = {}
    if isinstance(scorer.model, SeveralGoals) and test.goals is not None:
        values = predict_goals(scorer.model, test, gather, device)
        probability, goals = values[:, config.ranker.click_goal], goal_metrics(config.ranker, test.goals, values)
    else:
        probability = predict(scorer.model, test, gather, device)
    found = click_metrics(test.user, test.clicked, probability)
    log.info("%s: test AUC %.4f, log loss %.4f", name, found["auc"], found["log_loss"])
    return Measurement(
        auc=found["auc"],
        gauc=found["gauc"],
        log_loss=found["log_loss"],
        summary=TrainingSummary.of(epochs, len(data.train)),
        parameters=sum(weights.numel() for weights in scorer.model.parameters()),
        examples=(len(data.train), len(data.validation), len(data.test)),
        goals=goals,
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


def data_settings(config: Config) -> str:
    """The settings of a ranker on which its data depend, and defaults for the others."""
    same = {name: getattr(config.ranker, name) for name in OF_THE_DATA}
    return Ranker(**same, user_kernels=config.ranker.reads_maps).model_dump_json()
