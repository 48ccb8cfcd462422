"""Videos that are added while a recommender answers: they are items like any other, in every place that knows items."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from rayrec.config import Config
from rayrec.serving.added_items import AddedItems
from rayrec.serving.additions import AddedVideo, catalog_table, features_table, item_table
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.covers import CoverError
from rayrec.serving.items import Items
from rayrec.serving.pages import AGAIN, Page
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Addition, Event
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import rank_by_number


def added(video_id: str, **facts: object) -> AddedVideo:
    """A video on topic 3, whose vector is that of v3."""
    vector = np.array([np.sin(0.03), 0, 0, np.cos(0.03)], np.float32)
    given = {"video_id": video_id, "title": f"New {video_id}", "tags": ["cake"], "published_at": 1, "author_id": "a1"}
    return AddedVideo(given | facts, [3], [0.8], vector, {"audio": vector})


def add(recommender: Recommender, *videos: AddedVideo, model: str = "") -> None:
    for video in videos:
        recommender.store.add_video(video.video_id, model, video.to_json())


def ask(recommender: Recommender, user: str = "new", k: int = 1000, **more: object) -> Page:
    return asyncio.run(recommender.recommend(user, k, **{"exclude": []} | more))


def shown(recommender: Recommender, page: Page) -> list[str]:
    """The videos of a page that the user had not seen."""
    return recommender.items.ids(page.items[page.why != AGAIN])


def test_a_row_comes_back_as_it_was() -> None:
    video = added("é/1", duration_s=2.5, primary_class=None)
    again = AddedVideo.from_json(video.to_json())
    assert (again.facts, again.topics, again.similarity, again.cover) == (video.facts, [3], [0.8], None)
    np.testing.assert_array_equal(again.vector, video.vector)
    np.testing.assert_array_equal(again.vectors["audio"], video.vector)
    described = AddedVideo.from_json(replace(video, features={"audio": np.arange(34, dtype=np.float32)}).to_json())
    rows = features_table([described, AddedVideo({"video_id": "bare"})])
    assert rows["audio"].to_pylist() == [list(range(34)), None]
    assert rows["video_id"].to_pylist() == ["é/1", "bare"]
    table = item_table([video, AddedVideo({"video_id": "bare"})])
    assert table["video_id"].to_pylist() == ["é/1", "bare"]
    assert table["topics"].to_pylist() == [[3], None]
    assert table["audio"].to_pylist()[1] is None
    assert "audio" not in catalog_table([video]).column_names


def test_a_new_video_is_on_the_next_page_after_a_refresh(recommender: Recommender) -> None:
    add(recommender, added("n1"), added("n2", published_at=now_ms() + 3_600_000))
    assert len(ask(recommender, "early").items) == 40
    assert recommender.refresh(now_ms())
    page = ask(recommender)
    assert len(page.items) == 41
    assert "n1" in shown(recommender, page)
    assert page.why[shown(recommender, page).index("n1")] == "new"  # fresh, as nobody has seen it
    assert recommender.queues.is_fresh(np.array([recommender.items.find("n1")])).all()
    recommender.refresh(now_ms() + 7_200_000)  # published meanwhile
    assert shown(recommender, ask(recommender)) == ["n2"]
    assert "n1" not in shown(recommender, ask(recommender, "other", exclude=["n1"]))
    assert "n1" not in shown(recommender, ask(recommender, "third", blocked_authors=["a1"]))


def test_a_new_video_brings_its_topic_to_those_who_click_it(recommender: Recommender) -> None:
    add(recommender, added("n1"))
    recommender.refresh(now_ms())
    recommender.store.add_events([Event("e", "ann", "n1", "click", now_ms()), Event("i", "bob", "n1", "impression", now_ms())])
    recommender.refresh(now_ms())
    item = recommender.items.find("n1")
    assert (recommender.clicks[item], recommender.exposures[item]) == (1, 1)
    assert recommender.user("ann").clicked.tolist() == [item]
    page = ask(recommender, "ann")
    assert 3 in page.topics
    assert 3 not in ask(recommender, "somebody").topics
    assert "n1" not in shown(recommender, page)


def test_what_is_known_of_a_new_video(recommender: Recommender, tmp_path: Path) -> None:
    add(recommender, added("n1", uri="/media/n1.mp4"))
    recommender.refresh(now_ms())
    item = recommender.items.find("n1")
    facts = recommender.items.facts_of(np.array([4, item, 5]))
    assert [each["video_id"] for each in facts] == ["v3", "n1", "v4"]
    assert set(facts[0]) == set(facts[1])
    assert (facts[1]["topics"], facts[1]["has_cover"], facts[1]["uri"]) == ([3], False, "/media/n1.mp4")
    assert recommender.items.cover(item) is None
    similar, likeness = recommender.similar("n1", 3)
    assert recommender.items.ids(similar)[0] == "v3"
    assert likeness[0] == pytest.approx(1, abs=1e-6)
    assert item in recommender.similar("v3", 40)[0]
    with pytest.raises(KeyError):
        recommender.similar("nowhere", 3)


def test_a_withdrawn_video_stays_out_also_if_it_was_withdrawn_before(recommender: Recommender) -> None:
    recommender.store.withdraw("n1", True)
    recommender.refresh(now_ms())
    add(recommender, added("n1"), added("n2"))
    recommender.refresh(now_ms())
    assert "n1" not in shown(recommender, page := ask(recommender))
    assert "n2" in shown(recommender, page)
    recommender.store.withdraw("n1", False)
    recommender.refresh(now_ms())
    assert shown(recommender, ask(recommender)) == ["n1"]


def test_only_the_bundles_own_model_and_videos_that_it_lacks_count(recommender: Recommender, bundle: Bundle) -> None:
    add(recommender, added("n1"), added("v7"))
    add(recommender, added("n2"), added("n1"), model="another")
    recommender.refresh(now_ms())
    assert [video.video_id for video in recommender.items.added] == ["n1"]
    assert recommender.items.find("v7") == bundle.item_of["v7"]
    assert len(ask(recommender).items) == 41


def test_a_recommender_that_starts_later_has_them_from_the_beginning(
    recommender: Recommender, bundle: Bundle, published: Config
) -> None:
    add(recommender, added("n1"), added("n2"))
    recommender.store.remove_additions([1])
    recommender.store.add_events([Event("e", "ann", "n2", "impression", now_ms())])
    store = SqliteStore(recommender.store.path)
    later = Recommender(bundle, store, rank_by_number, published.recall, published.selection, seed=0)
    assert [video.video_id for video in later.items.added] == ["n2"]
    assert later.exposures[later.items.find("n2")] == 1
    store.close()


def test_a_view_that_a_request_began_with_stays_whole(recommender: Recommender) -> None:
    """While a ranker thinks, a video comes and is clicked: the request does not see either."""
    asked = []

    async def rank(user_id: str, user: object, at: int, candidates: np.ndarray, context: object) -> np.ndarray:
        asked.append(candidates)
        if len(asked) == 1:
            add(recommender, added("n1"))
            recommender.refresh(now_ms())
        return candidates.astype(np.float32) / 1000

    recommender.rank = rank
    assert len(ask(recommender).items) == 40
    assert shown(recommender, ask(recommender)) == ["n1"]
    assert asked[1].tolist() == [41]


def test_items_have_the_same_name_for_everyone(bundle: Bundle) -> None:
    rows = [Addition(number, f"n{number}", "", added(f"n{number}").to_json()) for number in (2, 5, 9)]
    all_of_them, some = Items.of(bundle).grown(rows), Items.of(bundle).grown(rows[1:])
    assert (len(Items.of(bundle)), len(all_of_them)) == (41, 44)
    assert all_of_them.grown(rows) is all_of_them
    for items in (all_of_them, some):
        named = items.in_store(items.find_all(["v0", "n5", "n9", "nowhere"]))
        assert named.tolist() == [1, 40 + 5, 40 + 9, 0]
    assert all_of_them.ids(np.array([43, 1])) == ["n9", "v0"]
    assert all_of_them.data.load_vectors().shape == (43, 4)
    assert all_of_them.author_of[41:].tolist() == [bundle.authors["a1"]] * 3


def test_a_cover_that_is_gone_is_an_error(bundle: Bundle) -> None:
    video = added("n1")
    gone = AddedVideo(video.facts, cover="added/gone.jpeg")
    items = Items.of(bundle).grown([Addition(1, "n1", "", gone.to_json())])
    assert items.facts_of(np.array([41]))[0]["has_cover"]
    with pytest.raises(CoverError, match=r"added/gone\.jpeg: the cover of an added video can't be read"):
        items.cover(41)


def test_a_ranker_takes_what_a_request_names_and_it_lacks(published: Config) -> None:
    workspace = Workspace(published.workspace)
    scorer = load_scorer(workspace.fs, locate(workspace, None)[1])
    items = AddedItems(scorer)
    rows = [Addition(number, f"n{number}", "", added(f"n{number}").to_json()) for number in (2, 5)]
    named = np.array([1, 45, 42, 45], np.int32)
    assert items.missing(named) == [2, 5]
    items.take(rows[1:])
    assert items.missing(named) == [2]
    items.take(rows)
    items.take(rows)
    assert (items.missing(named), len(items)) == ([], 2)
    assert items.local(named).tolist() == [1, 41, 42, 41]
    assert items.local(named[:1]).tolist() == [1]
    nobody = [np.empty(0, np.int32)]
    scores = scorer.score(["u1"], nobody, nobody, np.array([now_ms()]), items.local(named)[None])[0]
    assert scores[1] == pytest.approx(scores[2])  # the same content under two ids that are unknown
    assert ((scores > 0) & (scores < 1)).all()
    assert isinstance(workspace.fs, pafs.LocalFileSystem)
