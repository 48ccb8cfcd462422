"""The trials of a search are ranked, summarised and put into words."""

import pytest

from rayrec.evaluation.trials import TrainingSummary, Trial, in_words, ranked
from rayrec.training.callbacks import Epoch


def test_trials_are_ranked_by_the_metric_and_failures_come_last() -> None:
    def trial(number: int, status: str, auc: float, log_loss: float) -> Trial:
        return Trial(number, {}, status, "", TrainingSummary(3, 2, auc, log_loss, 1e4, 5.0), 100)

    trials = [
        trial(1, "stopped", 0.6, 0.5),
        trial(2, "failed", 0.9, 0.1),
        trial(3, "finished", 0.7, 0.6),
        Trial(4, {}, "failed", "", None, None),
    ]
    assert [one.number for one in ranked(trials, "auc")][:2] == [3, 1]
    assert [one.number for one in ranked(trials, "log_loss")] == [1, 3, 2, 4]


def test_a_training_is_summarised_by_its_best_epoch() -> None:
    validations = [(100.0, 0.6, 0.65), (200.0, 0.8, 0.55), (400.0, 0.7, 0.6)]  # examples a second, AUC, log loss
    epochs = [
        Epoch(number, 0.5, speed, {"validation_auc": auc, "validation_log_loss": log_loss})
        for number, (speed, auc, log_loss) in enumerate(validations, 1)
    ]
    summary = TrainingSummary.of(epochs, examples=1000)
    assert (summary.epochs, summary.best_epoch, summary.auc, summary.log_loss) == (3, 2, 0.8, 0.55)
    assert summary.examples_per_s == 200.0
    assert summary.seconds == pytest.approx(10 + 5 + 2.5)


def test_values_are_put_into_words() -> None:
    values = {"ranker.model": "fm", "ranker.hidden": [64, 32], "training.learning_rate": 0.00123456}
    assert in_words(values) == "model=fm hidden=[64, 32] learning_rate=0.00123"
