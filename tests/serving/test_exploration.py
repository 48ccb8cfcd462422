"""What the recommender draws for places that explore, what it says of it, and how another ranker is judged by it afterwards."""

import asyncio
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, Selection
from rayrec.errors import RayrecError
from rayrec.evaluation.drawn_log import clicks_of, day_files, drawn_rows, places_of
from rayrec.recall.exploration import ARMS
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.http import answers
from rayrec.serving.pages import Page
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.state.export import export_events
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event
from rayrec.workspace.files import open_filesystem
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import rank_by_number, video

EXPLORING = Selection(explore=0.4)
K = 5  # two of them explore


def exploring(recommender: Recommender, selection: Selection = EXPLORING) -> Recommender:
    """Over the same bundle and store."""
    return Recommender(recommender.bundle, recommender.store, rank_by_number, recommender.settings, selection, seed=0)


def previewed(recommender: Recommender, draw_seed: int) -> Page:
    return asyncio.run(recommender.preview("new", K, draw_seed=draw_seed))


def shown_and_clicked(recommender: Recommender, item: int, shown: int, clicked: int) -> None:
    """Impressions and clicks of other users."""
    name = recommender.bundle.item_ids[item]
    kinds = ["impression"] * shown + ["click"] * clicked
    users = [*range(shown), *range(clicked)]
    recommender.store.add_events(
        [Event(f"{name}{kind}", f"p{user}", name, kind, now_ms()) for kind, user in zip(kinds, users, strict=True)]  # type: ignore[arg-type]
    )
    recommender.refresh(now_ms())


def test_each_video_is_shown_as_often_as_its_propensities_say(recommender: Recommender) -> None:
    """Over requests that differ in their seeds alone. In every place, each video that competes has its odds."""
    served = exploring(recommender)
    liked, disliked = served.queues.fresh[:2].tolist()
    shown_and_clicked(served, liked, 2, 2)
    shown_and_clicked(served, disliked, 2, 0)
    shown, expected, variance = Counter[int](), Counter[int](), Counter[int]()
    for draw_seed in range(700):
        page = previewed(served, draw_seed)
        for draw in page.draws or []:
            assert page.items[draw.position] == draw.rows[draw.chosen]
            assert draw.odds.sum() == pytest.approx(1)
            shown[int(page.items[draw.position])] += 1
            expected.update(dict(zip(draw.rows.tolist(), draw.odds.tolist(), strict=True)))
            variance.update(dict(zip(draw.rows.tolist(), (draw.odds * (1 - draw.odds)).tolist(), strict=True)))
    assert set(expected) == set(served.queues.fresh.tolist())
    for item, count in expected.items():
        assert abs(shown[item] - count) < 3.5 * np.sqrt(variance[item])
    assert shown[liked] > 3 * shown[disliked]


def test_the_same_seed_gives_the_same_page(recommender: Recommender) -> None:
    served = exploring(recommender)
    one, other = previewed(served, 5), previewed(served, 5)
    assert one.items.tolist() == other.items.tolist()
    assert one.propensities() == other.propensities()
    assert {tuple(previewed(served, seed).items.tolist()) for seed in range(20)} != {tuple(one.items.tolist())}


def test_places_without_a_draw_have_propensity_1_and_pages_without_exploration_none(recommender: Recommender) -> None:
    page = previewed(exploring(recommender), 3)
    propensities = page.propensities()
    assert propensities is not None
    drawn = {draw.position for draw in page.draws or []}
    assert drawn == {1, 4}
    assert [place for place, odds in enumerate(propensities) if odds < 1] == sorted(drawn)
    plain = previewed(recommender, 3)
    assert (plain.draws, plain.propensities()) == (None, None)
    asyncio.run(recommender.recommend("plain", K, []))
    assert [row for piece in recommender.store.read(1, None) for row in piece["draw"].to_pylist()] == [None] * K


def test_debug_shows_propensities(recommender: Recommender) -> None:
    page = previewed(exploring(recommender), 3)
    answer = json.loads(answers.page(recommender, page, "stable", {}, debug=True, trusted=True))
    assert answer["debug"]["propensities"] == page.propensities()
    assert (
        json.loads(answers.page(recommender, previewed(recommender, 3), "stable", {}, debug=True, trusted=True))["debug"][
            "propensities"
        ]
        is None
    )


@pytest.fixture
def browsed(bundle: Bundle, published: Config, state: Config, tmp_path: Path) -> tuple[str, list[tuple[str, Page]]]:
    """An export of what people did with pages that explored, and their pages. Everybody clicks their page's last video."""
    store = open_store(state)
    served = Recommender(bundle, store, rank_by_number, published.recall, EXPLORING, seed=0)
    pages: list[tuple[str, Page]] = []
    for number in range(8):
        user = f"u{number % 4}"
        page = asyncio.run(served.recommend(user, K, [], context={"device": "tv"}))
        pages.append((user, page))
        store.add_events([Event(f"c{number}", user, bundle.item_ids[int(page.items[-1])], "click", page.at + 1, page.request_id)])
    store.close()
    export_events(state, str(tmp_path / "log"))
    return str(tmp_path / "log"), pages


def test_what_was_drawn_goes_through_store_and_export(browsed: tuple[str, list[tuple[str, Page]]], bundle: Bundle) -> None:
    folder, pages = browsed
    (path,) = Path(folder).glob("2*.parquet")
    rows = {(row["request_id"], row["position"]): row for row in pq.read_table(path, partitioning=None).to_pylist()}
    assert len(rows) == len(pages) * K
    for _, page in pages:
        among = {draw.position: [bundle.item_ids[item] for item in draw.rows] for draw in page.draws or []}
        for place, (item, odds) in enumerate(zip(page.items.tolist(), page.propensities() or [], strict=True)):
            row = rows[page.request_id, place]
            assert row["video_id"] == bundle.item_ids[item]
            assert row["propensity"] == odds
            assert row["clicked"] == (place == K - 1)
            assert (json.loads(row["among"]) if row["among"] else None) == among.get(place)
            assert len(among.get(place, [])) <= ARMS


def test_another_ranker_is_asked_as_it_would_have_been_then(
    browsed: tuple[str, list[tuple[str, Page]]], published: Config, bundle: Bundle
) -> None:
    """Its scores of the videos that competed are those that it gives with the clicks of that moment."""
    folder, pages = browsed
    fs, root = open_filesystem(folder)
    workspace = Workspace(published.workspace)
    scorer = load_scorer(workspace.fs, locate(workspace, None)[1])
    rows = drawn_rows(fs, day_files(fs, root))
    logs = (fs, day_files(fs, root)), (workspace.fs, workspace.parts("interactions"))
    users = rows["user_id"].combine_chunks().unique()
    clicks = clicks_of(users, *logs)
    assert (
        clicks.num_rows == clicks_of(users, *logs, *logs).num_rows == sum(len(bundle.user(f"u{n}").clicked) for n in range(4)) + 8
    )
    found = places_of(rows, clicks, scorer)
    draws = {(user, page.request_id, draw.position): (page, draw) for user, page in pages for draw in page.draws or []}
    assert len(found) == len(draws)
    at_of = {int(page.at): page for _, page in pages}
    recent: dict[str, list[tuple[int, int]]] = defaultdict(list)
    histories = {}
    for user, page in pages:
        log = bundle.user(user)
        histories[page.at] = [*zip(log.clicked.tolist(), log.clicked_at.tolist(), strict=True), *recent[user]]
        recent[user].append((int(page.items[-1]), page.at + 1))
    for number, row in enumerate(rows.to_pylist()):
        page = at_of[row["shown_at"]]
        draw = next(draw for draw in page.draws or [] if bundle.item_ids[int(page.items[draw.position])] == row["video_id"])
        clicked, when = (np.array(column) for column in zip(*histories[page.at], strict=True))
        said: dict[str, Any] = {"device": "tv"}
        expected = scorer.score([row["user_id"]], [clicked], [when], np.array([page.at]), draw.rows[None], [said])[0]
        np.testing.assert_allclose(found.scores[number, : len(expected)], expected, rtol=1e-5)
        assert (found.propensities[number], found.clicked[number]) == (draw.propensity, draw.position == K - 1)
        assert found.chosen[number] == draw.chosen


def test_a_log_in_which_nothing_was_drawn_is_refused(state: Config, tmp_path: Path) -> None:
    store = open_store(state)
    store.add_events([Event("i", "ann", video(1), "impression", now_ms())])
    store.close()
    export_events(state, str(tmp_path / "log"))
    fs, root = open_filesystem(str(tmp_path / "log"))
    with pytest.raises(RayrecError, match=r"no video in .*log was drawn; serve with `selection\.explore` above 0"):
        drawn_rows(fs, day_files(fs, root))
    with pytest.raises(RayrecError, match=r"nowhere holds no exported log; `rayrec events export CONFIG --to FOLDER` makes one"):
        day_files(fs, str(tmp_path / "nowhere"))
