"""Pages of a ranker with several goals: ordered by the formula of the config, of an arm, or of a request with a trusted key."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rayrec.config import Config, ConfigError, Experiment, Formula, Selection
from rayrec.serving.assignment import Experiments
from rayrec.serving.bundle import Bundle, locate
from rayrec.serving.http.auth import Keys
from rayrec.serving.recommender import Recommender, UserState, rank_in_order
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.workspace.versions import Workspace
from tests.serving.http.helpers import api_of, error, in_process
from tests.serving.small_world import build_workspace, rank_by_number

GOALS = ["click", "watch"]
TRUSTED, OTHER = "first", "second"


async def rank_by_goals(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
    """High item numbers are clicked, and low ones watched."""
    return np.stack([candidates / 100, (100 - candidates) * 10], 1).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return build_workspace(tmp_path_factory.mktemp("goals"))


@pytest.fixture
def bundle(world: Config) -> Bundle:
    workspace = Workspace(world.workspace)
    version, folder = locate(workspace, None)
    bundle = Bundle.load(workspace.fs, folder, version)
    return replace(bundle, info=replace(bundle.info, goals=GOALS))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "events.db")
    yield store
    store.close()


def recommender_of(world: Config, bundle: Bundle, store: SqliteStore, score: str | None = None, **arms: Any) -> Recommender:
    experiments = Experiments({"e": Experiment.model_validate({"arms": arms})} if arms else {})
    return Recommender(bundle, store, rank_by_goals, world.recall, Selection(score=score), seed=0, experiments=experiments)


def order(recommender: Recommender, **how: Any) -> tuple[list[int], list[float]]:
    page = asyncio.run(recommender.preview("new", 10, **how))
    return page.items.tolist(), page.scores.tolist()


def test_a_page_is_ordered_by_the_formula(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    items, scores = order(recommender_of(world, bundle, store))  # by the first goal
    assert items == sorted(items, reverse=True)
    assert scores == pytest.approx([item / 100 for item in items])
    recommender = recommender_of(world, bundle, store, "click^0.5 * watch^2")
    items, scores = order(recommender)
    expected = [(item / 100) ** 0.5 * ((100 - item) * 10) ** 2 for item in items]
    assert scores == pytest.approx(expected, rel=1e-5)
    assert scores == sorted(scores, reverse=True)
    items, _ = order(recommender, formula=Formula.parse("watch", GOALS))
    assert items == sorted(items)


def test_an_arm_has_its_own_formula(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    recommender = recommender_of(world, bundle, store, a=0.5, b={"share": 0.5, "changes": {"selection.score": "watch"}})
    items, _ = order(recommender)
    assert items == sorted(items, reverse=True)
    items, _ = order(recommender, change=frozenset({("e", "b")}))
    assert items == sorted(items)


def test_a_bundle_without_the_goals_of_the_formula_is_refused(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    with pytest.raises(ConfigError, match=rf"selection.score: there is no goal 'like'.* in the bundle {bundle.version}"):
        recommender_of(world, bundle, store, "like")
    plain = replace(bundle, info=replace(bundle.info, goals=[]))
    with pytest.raises(ConfigError, match=r"selection.score: there is no goal 'click'; the ranker has no goals"):
        Recommender(plain, store, rank_by_number, world.recall, Selection(score="click"), seed=0)
    before_a_log = replace(plain, info=replace(plain.info, has_ranker=False))  # as recall has them
    assert order(Recommender(before_a_log, store, rank_in_order, world.recall, Selection(score="click"), seed=0))[1][0] == 1


def asked(
    recommender: Recommender, score: str | None, key: str | None = None, debug: bool = False, **settings: Any
) -> httpx.Response:
    async def ask() -> httpx.Response:
        keys = None if key is None else Keys([TRUSTED, OTHER])
        async with in_process(api_of(recommender, keys, **settings)) as client:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            body = {"user_id": "new", "score": score, "debug": debug}
            return await client.post("/v1/recommend", json=body, headers=headers)

    return asyncio.run(ask())


def test_a_request_with_a_trusted_key_may_bring_a_formula(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    recommender = recommender_of(world, bundle, store)
    trusted = {"trusted_keys": [hashlib.sha256(TRUSTED.encode()).hexdigest()[:8]]}
    for how in ({"key": TRUSTED} | trusted, {}):  # without keys, whoever may ask is this machine
        videos = asked(recommender, "watch^2", **how).json()["videos"]
        items = [recommender.items.find(video["video_id"]) for video in videos]
        assert items == sorted(items)
        assert [video["score"] for video in videos] == pytest.approx([((100 - item) * 10) ** 2 for item in items])
    for how in ({"key": OTHER} | trusted, {"key": TRUSTED}):
        assert error(asked(recommender, "watch", **how), 403).startswith("score: only keys in serving.trusted_keys may bring")
    assert error(asked(recommender, "watch * like", **trusted), 422).startswith("score: there is no goal 'like'")


def test_a_trusted_key_sees_what_is_predicted_of_each_goal(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    recommender = recommender_of(world, bundle, store, "click * watch^0.5")
    trusted = {"trusted_keys": [hashlib.sha256(TRUSTED.encode()).hexdigest()[:8]]}
    for how in ({"key": TRUSTED} | trusted, {}):
        answer = asked(recommender, None, debug=True, **how).json()
        assert answer["debug"]["formula"] == "click * watch^0.5"
        for video in answer["videos"]:
            item = recommender.items.find(video["video_id"])
            assert video["goals"] == pytest.approx({"click": item / 100, "watch": (100 - item) * 10})
            assert video["score"] == pytest.approx(video["goals"]["click"] * video["goals"]["watch"] ** 0.5, rel=1e-5)
    assert asked(recommender, "watch^2", debug=True).json()["debug"]["formula"] == "watch^2"
    assert asked(recommender_of(world, bundle, store), None, debug=True).json()["debug"]["formula"] == "click"
    for how in ({"key": OTHER, "debug": True} | trusted, {"key": TRUSTED} | trusted):  # another key, or without debug
        answer = asked(recommender, None, **how).json()
        assert not any("goals" in video for video in answer["videos"])
        assert "formula" not in (answer["debug"] or {})


def test_videos_that_come_again_have_their_goals_too(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    recommender = recommender_of(world, bundle, store, "watch")
    known = len(recommender.items) - 1
    asyncio.run(recommender.recommend("ann", known - 5, []))
    page = asyncio.run(recommender.preview("ann", 10))
    assert (page.why == "again").sum() == 5
    assert page.goals is not None
    np.testing.assert_allclose(page.goals, np.stack([page.items / 100, (100 - page.items) * 10.0], 1), rtol=1e-6)
    np.testing.assert_allclose(page.scores, page.goals[:, 1])


def test_kinds_of_ones_own_are_taken_if_the_config_names_them(world: Config, bundle: Bundle, store: SqliteStore) -> None:
    recommender = recommender_of(world, bundle, store)

    async def send(**settings: Any) -> httpx.Response:
        async with in_process(api_of(recommender, **settings)) as client:
            event = {"event_id": "e1", "user_id": "new", "video_id": "v1", "kind": "share"}
            return await client.post("/v1/events", json={"events": [event]})

    assert error(asyncio.run(send()), 422).startswith("events.0: kind: there is no kind 'share'")
    assert asyncio.run(send(event_kinds=["share"])).json()["new"] == 1
    assert [row["kind"] for piece in store.read(1, None) for row in piece.to_pylist()] == ["share"]
    assert len(recommender.user("new").clicked) == 0
