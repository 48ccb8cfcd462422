"""The report says in words where popularity alone is better."""

import math

import pytest

from rayrec.evaluation.popularity import CLICK_RATE, CLICKS, RECENT_CLICKS
from rayrec.evaluation.report import click_warnings, page_warnings, split_warnings


@pytest.mark.parametrize(
    ("ndcg", "recall", "said"),
    [
        (0.0299, 0.06, ["NDCG@10 0.0299 against 0.0300 (popularity: clicks)"]),
        (0.03, 0.05, []),
        (0.0301, 0.06, []),
        (0.04, 0.02, ["Recall@10 0.0200 against 0.0500 (popularity: recent clicks)"]),
        (0.02, 0.02, ["NDCG@10 0.0200 against 0.0300 (popularity: clicks), Recall@10 0.0200 against 0.0500"]),
        (math.nan, math.nan, []),
    ],
)
def test_a_page_that_does_not_beat_the_strongest_popularity_is_told(ndcg: float, recall: float, said: list[str]) -> None:
    pages = {
        "with topics": {"ndcg": ndcg, "recall": recall},
        CLICK_RATE: {"ndcg": 0.01, "recall": 0.01},
        CLICKS: {"ndcg": 0.03, "recall": 0.04},
        RECENT_CLICKS: {"ndcg": 0.02, "recall": 0.05},
        "best possible": {"ndcg": 0.9, "recall": 0.9},
    }
    found = page_warnings(pages, "with topics", 10)
    assert len(found) == len(said)
    assert all(sentence in warning for sentence, warning in zip(said, found, strict=True))


def clicks(auc: float, log_loss: float) -> dict[str, dict[str, float]]:
    return {
        "with topics": {"auc": auc, "gauc": 0.6, "log_loss": log_loss},
        CLICK_RATE: {"auc": 0.5, "gauc": 0.5, "log_loss": 0.45},
        RECENT_CLICKS: {"auc": 0.65, "gauc": 0.5, "log_loss": math.nan},
    }


@pytest.mark.parametrize(("log_loss", "warned"), [(0.4501, True), (0.45, False), (0.4499, False), (math.nan, False)])
def test_probabilities_that_fit_less_well_than_click_rates_are_told(log_loss: float, warned: bool) -> None:
    found = click_warnings(clicks(0.7, log_loss), "with topics")
    assert len(found) == warned
    if warned:
        assert "log loss 0.4501 against 0.4500" in found[0]


@pytest.mark.parametrize(("auc", "warned"), [(0.6499, True), (0.65, False), (math.nan, False)])
def test_an_order_that_does_not_beat_popularity_is_told(auc: float, warned: bool) -> None:
    found = click_warnings(clicks(auc, 0.4), "with topics")
    assert len(found) == warned
    if warned:
        assert "AUC 0.6499 against 0.6500 (popularity: recent clicks)." in found[0]


def test_a_split_that_is_not_by_time_is_told() -> None:
    assert split_warnings("time") == []
    assert split_warnings("user")[0].startswith("The log was split at random for each user and not by time.")
    assert split_warnings("file")[0].startswith("The log was split as it is given and not by time.")
