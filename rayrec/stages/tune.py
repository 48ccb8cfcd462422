"""The stage `tune`: a search for the settings of the ranker and its training, on Ray Tune.

Optuna proposes the trials, ASHA stops the poor ones. A trial trains in one process by the loop that `train` uses, whatever
`training.workers` says (any number of workers would train the same model); the cluster's room goes to trials side by side.

Ray Tune keeps the state of the search, and each trial its checkpoint, in the stage's unfinished version: a search that was killed
goes on from there. A trial that fails is one row of the table.
"""

import itertools
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from rayrec.config import Config, ConfigError, Domain, Span, dump
from rayrec.data.loading import MAY_READ, READS, ranking_data
from rayrec.errors import RayrecError
from rayrec.evaluation.search_report import MODEL, Trial, best_yaml, in_words, pictures, ranked, trials_csv, trials_json
from rayrec.ranking.scorer import Scorer
from rayrec.ranking.variants import TrainingSummary, device_for, variant
from rayrec.stages.on_ray.cluster import connect
from rayrec.training.trainer import Epoch, TrainingCallback, train_ranker
from rayrec.workspace.checkpoint import Checkpoint
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

BEST, TABLE, TRIALS = "best.yaml", "trials.csv", "trials.json"
SEARCH = "search"  # the folder of Ray Tune's state and the trials' checkpoints, which a finished version no longer has

# `Told` says what there is to say; without these Ray Tune 2.60 prints a header and the traceback of each failure besides.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")

log = logging.getLogger(__name__)


def tune_ranker(run: StageRun) -> None:
    """The work of the stage: the trials as CSV and JSON, the config of the best one, and pictures.

    Raises `ConfigError` for a space that can't be searched, before anything is trained, and `ValueError` when every trial fails.
    """
    config = run.config
    check_space(config)
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


def settings(config: Config) -> dict[str, Any]:
    """What the stage depends on; how many trials run side by side is not among it."""
    sections = {name: dump(getattr(config, name)) for name in ("split", "ranker", "training")}
    return sections | {"tuning": config.tuning.model_dump(mode="json", exclude={"concurrent"})}


# --- the space ------------------------------------------------------------------------------------------------------------------


def check_space(config: Config) -> None:
    """Raises `ConfigError` for a key or a value of the space that no trial could have."""
    if not config.tuning.space:
        raise ConfigError("tuning.space: it is empty; give it keys with choices, as {ranker.embedding_size: [8, 16, 32]}")
    for key, domain in config.tuning.space.items():
        for value in [domain.low, domain.high] if isinstance(domain, Span) else domain:
            _check_value(config, key, value)


def _check_value(config: Config, key: str, value: Any) -> None:
    """An option of one model is right when one of the models that are searched has it."""
    models = config.tuning.space.get(MODEL) if key != MODEL else None
    mistakes = []
    for model in models if isinstance(models, list) else [None]:
        try:
            variant(config, ({MODEL: model} if model else {}) | {key: value}, "tuning.space")
            return
        except ConfigError as error:
            mistakes.append(error)
    raise mistakes[0]


def _tune_domain(config: Config, key: str, domain: Domain) -> Any:
    """As Ray Tune has it. Choices travel as JSON, since to Optuna a choice is a text or a number and never a list."""
    if not isinstance(domain, Span):
        return tune.choice([json.dumps(choice) for choice in domain])
    low, high = domain.low, domain.high
    if low.is_integer() and high.is_integer() and not _takes_fractions(config, key, domain):
        return (tune.lograndint if domain.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(low, high)


def _takes_fractions(config: Config, key: str, span: Span) -> bool:
    try:
        _check_value(config, key, span.low + 0.5)
    except ConfigError:
        return False
    return True


def _values(proposed: dict[str, Any]) -> dict[str, Any]:
    """Key -> value, from what `_tune_domain` made of the space."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in proposed.items()}


# --- the search -----------------------------------------------------------------------------------------------------------------


def _search(run: StageRun) -> tune.ResultGrid:
    """All trials, run to their ends. Raises `KeyboardInterrupt` when Ray Tune was interrupted, which it does not itself."""
    config = run.config
    connect(config)
    storage = f"{run.workspace.uri}/{run.stage.name}/{run.version}"
    trainable = tune.with_resources(_trainable(run), _resources(config))
    if tune.Tuner.can_restore(f"{storage}/{SEARCH}"):
        log.info("tune: an earlier run was killed; going on with its trials")
        # Trials whose process died with the search count as failed: they go on too.
        tuner = tune.Tuner.restore(f"{storage}/{SEARCH}", trainable, resume_errored=True)
    else:
        space = {key: _tune_domain(config, key, domain) for key, domain in config.tuning.space.items()}
        run_config = tune.RunConfig(name=SEARCH, storage_path=storage, verbose=0, callbacks=[Told(config.tuning.trials)])
        tuner = tune.Tuner(trainable, param_space=space, tune_config=_tune_config(config), run_config=run_config)
    found = tuner.fit()
    if found.num_terminated + found.num_errors < config.tuning.trials:
        raise KeyboardInterrupt
    return found


def _tune_config(config: Config) -> tune.TuneConfig:
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch  # takes a second, which other commands need not wait
    except ImportError as error:
        raise ConfigError("`rayrec tune` needs Optuna: pip install 'rayrec[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning, epochs = config.tuning, config.training.epochs
    return tune.TuneConfig(
        metric=tuning.metric,
        mode="min" if tuning.metric == "log_loss" else "max",
        search_alg=OptunaSearch(seed=config.seed),
        # A trial ends by itself after its last epoch, or by patience.
        scheduler=tune.schedulers.ASHAScheduler(
            time_attr="epochs", max_t=max(epochs, tuning.min_epochs), grace_period=tuning.min_epochs, stop_last_trials=False
        ),
        num_samples=tuning.trials,
        max_concurrent_trials=tuning.concurrent,
        reuse_actors=True,  # a new process takes seconds to start
        trial_dirname_creator=str,  # short, and without the values
    )


def _resources(config: Config) -> dict[str, float]:
    """Of one trial: its share of the CPUs, on one machine."""
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    share = max(1, int(min(max(cpus), sum(cpus) // config.tuning.concurrent)))
    return {"CPU": share, "GPU": config.training.gpus_per_worker}


def _trainable(run: StageRun) -> Callable[[dict[str, Any]], None]:
    """What a trial's process does. Only plain values travel to it."""
    config, uri, checkpoints = dump(run.config), run.workspace.uri, f"{run.folder}/{SEARCH}/checkpoints"

    def trial(proposed: dict[str, Any]) -> None:
        workspace = Workspace(uri)
        checkpoint = Checkpoint(workspace.fs, f"{checkpoints}/{tune.get_context().get_trial_id()}.pt")
        try:
            _train(variant(Config.model_validate(config), _values(proposed), "trial"), workspace, checkpoint)
        finally:  # a trial that is stopped, by an exception in `report`, does not come back
            checkpoint.delete()

    return trial


def _train(config: Config, workspace: Workspace, checkpoint: Checkpoint) -> None:
    data = ranking_data(workspace, config.ranker, config.split)
    parameters = sum(weights.numel() for weights in Scorer.untrained(config.ranker, data).model.parameters())
    told = []

    def tell(epochs: list[Epoch]) -> None:
        told.append(len(epochs))
        summary = TrainingSummary.of(epochs, len(data.train))
        waited = summary.epochs - summary.best_epoch >= config.training.patience
        finished = waited or summary.epochs == config.training.epochs
        tune.report(asdict(summary) | {"parameters": parameters, "finished": finished})

    device = device_for(config.training)
    _, epochs = train_ranker(
        data, config.ranker, config.training, config.seed, device, TrainingCallback(tell), checkpoint=checkpoint
    )
    if not told:  # all epochs had been trained when the search was killed
        tell(epochs)


def _trial_of(number: int, result: tune.Result) -> Trial:
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
    cause = getattr(error, "cause", error)  # of a `RayTaskError`
    return str(cause) if isinstance(cause, RayrecError) else repr(cause)


class Told(tune.Callback):
    """Logs a line at the end of each trial."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.ended = itertools.count(1)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        found = trial.last_result
        self._tell(trial, f"AUC {found['auc']:.4f}, log loss {found['log_loss']:.4f} in epoch {found['best_epoch']}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        self._tell(trial, f"failed: {_reason(error)}")
        if not isinstance(error, RayrecError):  # no mistake of the user's
            log.warning("trial %s:", trial, exc_info=error)

    def _tell(self, trial: Any, outcome: str) -> None:
        log.info("trial %d of %d: %s: %s", next(self.ended), self.trials, in_words(_values(trial.config)), outcome)


STAGE = Stage("tune", tune_ranker, reads=READS, may_read=MAY_READ, settings=settings)
