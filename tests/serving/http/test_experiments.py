"""Experiments over HTTP: users of different arms get different pages, and their events say which."""

import json
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from typer.testing import CliRunner

from rayrec.cli import app
from rayrec.config import Config, dump, with_values
from rayrec.serving.assignment import Experiments
from rayrec.serving.bundle import Bundle
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.export import export_events
from rayrec.serving.state.sqlite import SqliteStore
from tests.serving.http.helpers import Listen, click
from tests.serving.small_world import rank_by_number

USERS = [f"u{n}" for n in range(12)]
POPULAR = {"pages": {"arms": {"control": 0.5, "popular": {"share": 0.5, "changes": {"recall.sources": {"popular": 1}}}}}}


def recommender_of(config: Config, bundle: Bundle) -> Recommender:
    experiments = Experiments(config.serving.experiments)
    store = SqliteStore(Path(config.serving.state or ""))
    return Recommender(bundle, store, rank_by_number, config.recall, config.selection, seed=0, experiments=experiments)


def test_users_of_different_arms_get_different_pages(published: Config, bundle: Bundle, tmp_path: Path, listen: Listen) -> None:
    config = with_values(published, {"serving.state": str(tmp_path / "events.db"), "serving.experiments": POPULAR})
    recommender = recommender_of(config, bundle)
    client = listen(create_api(lambda: Arms(recommender), config.serving, Keys(), LocalMetrics(), list))
    why, arms = defaultdict(set), {}
    for user in USERS:
        answer = client.post("/v1/recommend", json={"user_id": user, "k": 20}).json()
        arms[user] = answer["experiments"]["pages"]
        why[arms[user]] |= {video["why"].split(":")[0] for video in answer["videos"]}
        assert answer["arm"] == "stable"
    assert "topic" in why["control"]
    assert "topic" not in why["popular"]
    assert client.post("/v1/recommend", json={"user_id": "u0", "k": 1}).json()["experiments"] == {"pages": arms["u0"]}
    client.post("/v1/events", json={"events": [click(36, user_id="u0", arm="stable")]})
    recommender.store.close()
    export_events(config, str(tmp_path / "export"))
    [day] = [path for path in (tmp_path / "export").iterdir() if not path.name.startswith("_")]
    rows = pq.read_table(day, columns=["user_id", "arm"]).to_pylist()
    assert {row["user_id"]: row["arm"] for row in rows if row["arm"]} == {user: f"stable pages={arms[user]}" for user in USERS}


def test_the_dashboard_says_how_experiments_stand(published: Config, bundle: Bundle, tmp_path: Path, listen: Listen) -> None:
    config = with_values(published, {"serving.state": str(tmp_path / "events.db"), "serving.experiments": POPULAR})
    recommender = recommender_of(config, bundle)
    client = listen(create_api(lambda: Arms(recommender), config.serving, Keys(), LocalMetrics(), list))
    for user in USERS:
        page = client.post("/v1/recommend", json={"user_id": user, "k": 2}).json()
        video = page["videos"][0]["video_id"]
        client.post("/v1/events", json={"events": [click(1, user_id=user, video_id=video, request_id=page["request_id"])]})
    [shown] = client.get("/v1/dashboard").json()["experiments"]
    recommender.store.close()
    assert [(arm["arm"], arm["impressions"], arm["clicks"]) for arm in shown["arms"]] == [
        (arm["arm"], 2 * arm["users"], arm["users"]) for arm in shown["arms"]
    ]
    assert sum(arm["users"] for arm in shown["arms"]) == len(USERS)
    said = CliRunner().invoke(app, ["experiment", "status", *_arguments(config, tmp_path)], env={"COLUMNS": "150"})
    assert said.exit_code == 0, said.output
    assert {arm["arm"] for arm in shown["arms"]} <= set(said.output.split())
    assert {"watch", "seconds", "p-value"} <= set(said.output.split())  # a narrow terminal breaks what a column says


def _arguments(config: Config, folder: Path) -> list[str]:
    """Of a command with this config."""
    path = folder / "config.yaml"
    path.write_text(json.dumps(dump(config)))
    return [str(path)]
