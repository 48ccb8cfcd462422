"""The report says in words what is wrong."""

import math

import pytest

from rayrec.evaluation.report import click_warnings, page_warnings, split_warnings


@pytest.mark.parametrize(("ndcg", "warned"), [(0.0299, True), (0.03, False), (0.0301, False), (math.nan, False)])
def test_a_page_that_is_worse_than_popularity_is_told(ndcg: float, warned: bool) -> None:
    pages = {"with topics": {"ndcg": ndcg, "recall": 0.02}, "popularity": {"ndcg": 0.03, "recall": 0.05}}
    found = page_warnings(pages, "with topics", "popularity", 10)
    assert len(found) == warned
    if warned:
        assert "NDCG@10 0.0299 against 0.0300, Recall@10 0.0200 against 0.0500" in found[0]


@pytest.mark.parametrize(("log_loss", "warned"), [(0.4501, True), (0.45, False), (0.4499, False), (math.nan, False)])
def test_probabilities_that_fit_less_well_than_click_rates_are_told(log_loss: float, warned: bool) -> None:
    clicks = {"with topics": {"auc": 0.7, "log_loss": log_loss}, "popularity": {"auc": 0.5, "log_loss": 0.45}}
    found = click_warnings(clicks, "with topics", "popularity")
    assert len(found) == warned
    if warned:
        assert "log loss 0.4501 against 0.4500" in found[0]


def test_a_split_that_is_not_by_time_is_told() -> None:
    assert split_warnings("time") == []
    assert split_warnings("user")[0].startswith("The log was split at random for each user and not by time.")
    assert split_warnings("file")[0].startswith("The log was split as it is given and not by time.")
