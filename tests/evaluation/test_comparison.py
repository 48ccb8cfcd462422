"""A comparison as a table in Markdown."""

import math

from rayrec.evaluation.comparison import ArmRun, Measurement, goals_table, table
from rayrec.evaluation.popularity import CLICK_RATE, CLICKS
from rayrec.evaluation.trials import TrainingSummary


def test_the_table_has_mean_and_deviation_and_the_best_in_bold() -> None:
    def run(arm: str, seed: int, auc: float, log_loss: float) -> ArmRun:
        summary = TrainingSummary(1, 1, auc, log_loss, examples_per_s=1000.0 * seed, seconds=1.0)
        return ArmRun(arm, seed, Measurement(auc, auc + 0.01, log_loss, summary, 12_345, (8, 1, 1)))

    runs = [run("a", 1, 0.70, 0.62), run("a", 2, 0.72, 0.60), run("b", 1, 0.70, 0.50), run("b", 2, 0.70, 1.5)]
    assert table(runs, {}).splitlines()[2:] == [
        "| a | **.7100** ± .0141 | **.7200** ± .0141 | **.6100** ± .0141 | 1,500 | 12,345 |",
        "| b | .7000 ± .0000 | .7100 ± .0000 | 1.0000 ± .7071 | 1,500 | 12,345 |",
    ]


def test_a_run_that_failed_is_named_below_the_table() -> None:
    summary = TrainingSummary(1, 1, 0.7, 0.6, examples_per_s=1000.0, seconds=1.0)
    runs = [ArmRun("a", 1, Measurement(0.7, 0.7, 0.6, summary, 10, (8, 1, 1))), ArmRun("b", 1, None, "it diverged")]
    assert table(runs, {}).splitlines()[2:] == [
        "| a | **.7000** | **.7000** | **.6000** | 1,000 | 10 |",
        "| b | - | - | - | - | - |",
        "",
        "Not measured:",
        "",
        "- b, seed 1: it diverged",
    ]


def test_popularity_has_rows_and_arms_that_do_not_beat_it_are_named() -> None:
    summary = TrainingSummary(1, 1, 0.7, 0.6, examples_per_s=1000.0, seconds=1.0)
    runs = [ArmRun(arm, 1, Measurement(auc, 0.7, 0.6, summary, 10, (8, 1, 1))) for arm, auc in (("a", 0.7), ("b", 0.6))]
    popularity = {
        CLICK_RATE: {"auc": 0.62, "gauc": 0.6, "log_loss": 0.61},
        CLICKS: {"auc": 0.65, "gauc": 0.5, "log_loss": math.nan},
    }
    assert table(runs, popularity).splitlines()[2:] == [
        "| a | **.7000** | **.7000** | **.6000** | 1,000 | 10 |",
        "| b | .6000 | **.7000** | **.6000** | 1,000 | 10 |",
        "| popularity: click rate | .6200 | .6000 | .6100 | - | - |",
        "| popularity: clicks | .6500 | .5000 | - | - | - |",
        "",
        "- b does not beat popularity: AUC .6000 against .6500 (popularity: clicks).",
    ]


def test_goals_are_compared_over_the_seeds_of_each_arm_that_has_them() -> None:
    summary = TrainingSummary(1, 1, 0.7, 0.6, examples_per_s=1000.0, seconds=1.0)

    def run(arm: str, seed: int, **goals: dict[str, float]) -> ArmRun:
        return ArmRun(arm, seed, Measurement(0.7, 0.7, 0.6, summary, 10, (8, 1, 1), goals))

    def found(name: str, value: float) -> dict[str, float]:
        return {name: value, "calibration_error": 0.02, "predicted_to_observed": 1.1, "labels": 8}

    assert goals_table([run("alone", 1)]) == ""
    runs = [run("alone", 1)]
    runs += [run("a", seed, click=found("auc", 0.6 + seed / 100), watch=found("xauc", 0.55)) for seed in (1, 2)]
    runs += [run("b", seed, click=found("auc", 0.6)) for seed in (1, 2)]
    assert goals_table(runs).splitlines() == [
        "| goal | | AUC | XAUC | predicted / observed | ECE |",
        "|---|---|---|---|---|---|",
        "| click | a | **.6150** ± .0071 | - | 1.1000 ± .0000 | .0200 ± .0000 |",
        "| click | b | .6000 ± .0000 | - | 1.1000 ± .0000 | .0200 ± .0000 |",
        "| watch | a | - | **.5500** ± .0000 | 1.1000 ± .0000 | .0200 ± .0000 |",
    ]
