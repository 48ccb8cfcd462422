"""examples/client.py, run against the API of the small world."""

import runpy
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from rayrec.config import Serving
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms
from tests.serving.small_world import rank_by_last_click

EXAMPLE = Path(__file__).parents[2] / "examples" / "client.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_the_client_example_runs(
    recommender: Recommender,
    listen: Callable[[FastAPI], httpx.Client],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recommender.rank = rank_by_last_click
    api = create_api(lambda: Arms(recommender), Serving(), Keys(["secret"]), LocalMetrics(), list)
    url = str(listen(api).base_url)
    run(monkeypatch, "--url", url, "--user", "ann", "--key", "secret")
    said = capsys.readouterr().out
    assert "5 of 6 events were new" in said
    assert "refused: there is no video 'no-such-video'" in said
    assert "Status 404" in said
    next_page, similar = said.split("The next page for ann")[1].split("Similar to v38")
    assert next_page.count("of guitars") == 5  # as the liked video is
    assert similar.count("of guitars") == 3
    assert recommender.store.activity("ann", recommender.store.since(0), 10, 0, 0).clicked

    with pytest.raises(SystemExit, match=r"401: send one of the service's API keys"):
        run(monkeypatch, "--url", url, "--key", "wrong")
