"""The stage `tune`: searches the settings of the ranker and its training with Ray Tune.

Optuna proposes the trials, and ASHA stops the poor ones. A trial trains in one process with the loop that `train` uses, whatever
`training.workers` says: any number of workers would train the same model, so the cluster's resources go to parallel trials.

Ray Tune keeps the state of the search, and each trial its checkpoint, in the stage's unfinished version. A search that was killed
continues from there. A trial that fails is one row of the table.
"""

import itertools
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ray import cloudpickle, tune

from rayrec.config import Config, ConfigError, Domain, Span, dump, need_package
from rayrec.data.loading import MAY_READ, READS, ranking_data
from rayrec.data.shards import EncodedLog
from rayrec.errors import RayrecError
from rayrec.evaluation.search_report import MODEL, pictures
from rayrec.evaluation.trials import (
    BEST,
    TABLE,
    TRIALS,
    TrainingSummary,
    Trial,
    best_yaml,
    in_words,
    ranked,
    trials_csv,
    trials_json,
)
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.scorer import Scorer
from rayrec.ranking.variants import variant
from rayrec.serving.cluster.connection import connect, reserved_device
from rayrec.serving.cluster.room import await_room, check_room
from rayrec.stages import encode
from rayrec.stages.on_ray.working import share_of_cpus
from rayrec.training.callbacks import Epoch, TrainingCallback
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

SEARCH = "search"  # the folder of Ray Tune's state and the trials' checkpoints, which a finished version no longer has

# `TrialLogger` logs what matters. Without these settings Ray Tune 2.60 also prints a header and the traceback of each failure.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")

log = logging.getLogger(__name__)


def tune_ranker(run: StageRun) -> None:
    """The work of the stage: writes the trials as CSV and JSON, the config of the best one, and pictures.

    Raises `RayrecError` when every trial fails.
    """
    config = run.config
    found = _search(run)
    trials = ranked([_trial_of(number, result) for number, result in enumerate(found, 1)], config.tuning.metric)
    best = trials[0]
    if best.status == "failed":
        raise RayrecError(f"tune: all {len(trials)} trials failed; trial {best.number}: {best.reason}")
    run.write_file(TABLE, trials_csv(trials, list(config.tuning.space)))
    run.write_file(TRIALS, trials_json(trials))
    run.write_file(BEST, best_yaml(config, best, len(trials)))
    for name, picture in pictures(config, trials).items():
        run.write_file(name, picture)
    run.fs.delete_dir(f"{run.folder}/{SEARCH}")
    run.count(rows_in=len(trials), rows_out=sum(trial.status != "failed" for trial in trials))


def check(config: Config) -> None:
    """Raises `ConfigError` for a space that can't be searched, a missing package, and for GPUs that are not there."""
    check_space(config)
    check_room("tuning.concurrent", 1, gpus=config.training.gpus_per_worker)
    need_package("optuna", "tune", "`rayrec tune`")


def settings(config: Config) -> dict[str, Any]:
    """The settings on which the stage depends; the number of parallel trials is not among them."""
    sections = {name: dump(getattr(config, name)) for name in ("split", "ranker", "training")}
    return sections | {"tuning": config.tuning.model_dump(mode="json", exclude={"concurrent"})}


# --- the space ------------------------------------------------------------------------------------------------------------------


def check_space(config: Config) -> None:
    """Raise a `ConfigError` for a key or a value of the space that no trial could have."""
    if not config.tuning.space:
        raise ConfigError("tuning.space: it is empty; give it keys with choices, such as {ranker.embedding_size: [8, 16, 32]}")
    for key, domain in config.tuning.space.items():
        for value in [domain.low, domain.high] if isinstance(domain, Span) else domain:
            _check_value(config, key, value)


def _check_value(config: Config, key: str, value: Any) -> None:
    """Check a value. An option is valid when one of the models in the space has it."""
    models = config.tuning.space.get(MODEL) if key != MODEL else None
    errors = []
    for model in models if isinstance(models, list) else [None]:
        try:
            variant(config, ({MODEL: model} if model else {}) | {key: value}, "tuning.space")
            return
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _tune_domain(config: Config, key: str, domain: Domain) -> Any:
    """The domain for Ray Tune. Choices travel as JSON, because Optuna takes texts and numbers as choices but no lists."""
    if not isinstance(domain, Span):
        return tune.choice([json.dumps(choice) for choice in domain])
    low, high = domain.low, domain.high
    if low.is_integer() and high.is_integer() and not _takes_fractions(config, key, domain):
        return (tune.lograndint if domain.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(low, high)


def _takes_fractions(config: Config, key: str, span: Span) -> bool:
    """Whether the key of a span between whole numbers also takes numbers in between."""
    try:
        _check_value(config, key, span.low + 0.5)
    except ConfigError:
        return False
    return True


def _values(proposed: dict[str, Any]) -> dict[str, Any]:
    """The values of a trial (key -> value), from a sample of the domains that `_tune_domain` made."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in proposed.items()}


# --- the search -----------------------------------------------------------------------------------------------------------------


def _search(run: StageRun) -> tune.ResultGrid:
    """Run all trials to their ends. Raises `KeyboardInterrupt` when Ray Tune was interrupted, which Ray Tune itself does not."""
    config = run.config
    connect(config)
    if config.training.gpus_per_worker:
        await_room("tuning.concurrent", 1, gpus=config.training.gpus_per_worker)
    trainable = tune.with_resources(_trainable(run), _resources(config))
    folder = f"{run.folder}/{SEARCH}"
    if tune.Tuner.can_restore(folder, storage_filesystem=run.fs):
        log.info("tune: an earlier run was killed; continuing its trials")
        # Trials whose process died with the search count as failed; they continue too.
        tuner = tune.Tuner.restore(folder, trainable, resume_errored=True, storage_filesystem=run.fs)
    else:
        space = {key: _tune_domain(config, key, domain) for key, domain in config.tuning.space.items()}
        run_config = tune.RunConfig(
            name=SEARCH,
            storage_path=run.folder,
            storage_filesystem=run.fs,
            verbose=0,
            callbacks=[TrialLogger(config.tuning.trials)],
        )
        tuner = tune.Tuner(trainable, param_space=space, tune_config=_tune_config(config), run_config=run_config)
    found = tuner.fit()
    if found.num_terminated + found.num_errors < config.tuning.trials:
        raise KeyboardInterrupt
    return found


def _tune_config(config: Config) -> tune.TuneConfig:
    import optuna
    from ray.tune.search.optuna import OptunaSearch  # this import takes a second, so other commands don't make it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning, epochs = config.tuning, config.training.epochs
    return tune.TuneConfig(
        metric=tuning.metric,
        mode="min" if tuning.metric == "log_loss" else "max",
        search_alg=OptunaSearch(seed=config.seed),
        # A trial ends by itself after its last epoch, or when patience runs out.
        scheduler=tune.schedulers.ASHAScheduler(
            time_attr="epochs", max_t=max(epochs, tuning.min_epochs), grace_period=tuning.min_epochs, stop_last_trials=False
        ),
        num_samples=tuning.trials,
        max_concurrent_trials=tuning.concurrent,
        reuse_actors=True,  # a new process takes seconds to start
        trial_dirname_creator=str,  # short, and without the values
    )


def _resources(config: Config) -> dict[str, float]:
    """The resources of one trial: its share of the CPUs, on one machine."""
    return {"CPU": share_of_cpus(config.tuning.concurrent), "GPU": config.training.gpus_per_worker}


def _trainable(run: StageRun) -> Callable[[dict[str, Any]], None]:
    """The function that the process of a trial runs. Only plain values travel to it."""
    config, uri, checkpoints = dump(run.config), run.workspace.uri, f"{run.folder}/{SEARCH}/checkpoints"
    log_folder = run.input_folder("encode")

    def trial(proposed: dict[str, Any]) -> None:
        workspace = Workspace(uri)
        checkpoint = Checkpoint(workspace.fs, f"{checkpoints}/{tune.get_context().get_trial_id()}.pt")
        try:
            _train(variant(Config.model_validate(config), _values(proposed), "trial"), workspace, log_folder, checkpoint)
        finally:  # `report` raises an exception in a trial that ASHA stops; such a trial never continues
            checkpoint.delete()

    return trial


def _train(config: Config, workspace: Workspace, log_folder: str, checkpoint: Checkpoint) -> None:
    data = ranking_data(workspace, EncodedLog.open(workspace.fs, log_folder), config.ranker)
    parameters = sum(weights.numel() for weights in Scorer.untrained(config.ranker, data).model.parameters())
    reported = False

    def report(epochs: list[Epoch]) -> None:
        nonlocal reported
        reported = True
        summary = TrainingSummary.of(epochs, len(data.train))
        waited = summary.epochs - summary.best_epoch >= config.training.patience
        finished = waited or summary.epochs == config.training.epochs
        tune.report(asdict(summary) | {"parameters": parameters, "finished": finished})

    device = reserved_device()
    _, epochs = train_ranker(
        data, config.ranker, config.training, config.seed, device, TrainingCallback(report), checkpoint=checkpoint
    )
    if not reported:  # all epochs had been trained when the search was killed
        report(epochs)


def _trial_of(number: int, result: tune.Result) -> Trial:
    """The trial of one of Ray Tune's results."""
    metrics = result.metrics or {}
    summary = (
        TrainingSummary(**{name: metrics[name] for name in TrainingSummary.__dataclass_fields__}) if "epochs" in metrics else None
    )
    status, reason = "finished", ""
    if result.error:
        status, reason = "failed", _reason(result.error)
    elif not metrics.get("finished"):
        status, reason = "stopped", f"by ASHA, after epoch {metrics.get('epochs', 0)}"
    return Trial(number, _values(result.config or {}), status, reason, summary, metrics.get("parameters"))


def _reason(error: Exception | None) -> str:
    """Why a trial failed, in words."""
    cause = getattr(error, "cause", error)  # of a `RayTaskError`
    return str(cause) if isinstance(cause, RayrecError) else repr(cause)


def _error_of(trial: Any) -> Exception | None:
    """The error of a trial that has failed. `Trial.get_pickled_error` may read a copy that Ray has not written completely yet."""
    file = Path(trial.pickled_error_file or "")
    return cast(Exception, cloudpickle.loads(file.read_bytes())) if file.is_file() else trial.get_error()


class TrialLogger(tune.Callback):
    """Logs one line at the end of each trial."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.ended = itertools.count(1)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        found = trial.last_result
        self._log(trial, f"AUC {found['auc']:.4f}, log loss {found['log_loss']:.4f} in epoch {found['best_epoch']}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = _error_of(trial)
        self._log(trial, f"failed: {_reason(error)}")
        if not isinstance(error, RayrecError):  # a bug, whose traceback is needed
            log.warning("trial %s:", trial, exc_info=error)

    def _log(self, trial: Any, outcome: str) -> None:
        log.info("trial %d of %d: %s: %s", next(self.ended), self.trials, in_words(_values(trial.config)), outcome)


STAGE = Stage(
    "tune", tune_ranker, reads=READS, may_read=MAY_READ, after=("encode",), settings=settings, check=check, first=(encode.STAGE,)
)
