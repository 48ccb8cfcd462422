"""The table of a comparison against figures by hand."""

from rayrec.evaluation.model_table import Measured, ModelRun, model_table, not_better, picture

COLUMNS = {"recall@10": "Recall@10", "novelty@10": "novelty@10"}
RUNS = [
    ModelRun("popularity", 1, Measured({"recall@10": 0.2, "novelty@10": 2.5}, 0.1)),
    ModelRun("good", 1, Measured({"recall@10": 0.3, "novelty@10": 12.5}, 2), chosen={"collaborative.options.l2": 20}),
    ModelRun("good", 2, Measured({"recall@10": 0.5, "novelty@10": 13.5}, 4), chosen={"collaborative.options.l2": 20}),
    ModelRun("poor", 1, Measured({"recall@10": 0.1, "novelty@10": 1.0}, 1)),
    ModelRun("broken", 1, None, "it diverged"),
]


def test_the_table_has_means_deviations_choices_and_failures() -> None:
    assert model_table(RUNS, COLUMNS).splitlines() == [
        "| | Recall@10 | novelty@10 | seeds | seconds |",
        "|---|---|---|---|---|",
        "| popularity | .2000 | 2.5000 | 1 | 0.1 |",
        "| good | **.4000** ± .1414 | 13.0 ± .7071 | 2 | 3.0 |",
        "| poor | .1000 | 1.0000 | 1 | 1.0 |",
        "| broken | - | - | - | - |",
        "",
        "Chosen on validation:",
        "",
        "- good: `options.l2=20`",
        "",
        "Not measured:",
        "",
        "- broken, seed 1: it diverged",
    ]


def test_only_what_ranks_models_is_held_against_the_baseline() -> None:
    assert not_better(RUNS, "popularity", COLUMNS) == ["poor does not beat popularity by Recall@10 (.1000 against .2000)."]
    assert not_better(RUNS, "absent", COLUMNS) == []


def test_a_lower_error_is_better() -> None:
    runs = [ModelRun("mean", 1, Measured({"rmse": 1.1}, 0)), ModelRun("model", 1, Measured({"rmse": 0.9}, 0))]
    assert "| model | **.9000** | 1 | 0.0 |" in model_table(runs, {"rmse": "RMSE"})
    assert not_better(runs, "mean", {"rmse": "RMSE"}) == []


def test_the_picture_is_a_png() -> None:
    assert picture(RUNS, COLUMNS)[:4] == b"\x89PNG"
