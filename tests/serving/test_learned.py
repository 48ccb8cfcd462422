"""What a collaborative model says of items, from the table of its stage through a bundle to pages that hold uploaded videos."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.collaborative.models import NAMES
from rayrec.config import Config, ConfigError, with_values
from rayrec.serving.bundle import Bundle, BundleError, locate
from rayrec.serving.learned import tables_of, vectors_of
from rayrec.serving.recommender import Recommender, now_ms
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import build_workspace, embeddings, publish_catalog_of, rank_by_number, topic_of, video, write_tables
from tests.serving.test_added_videos import add, added, ask

OF_RATINGS = {"bpmf", "funk_svd", "rating_bias"}  # models that need points, which this log lacks
OPTIONS = {
    "bpr": {"epochs": 2, "batch_size": 64},
    "lightgcn": {"epochs": 2, "batch_size": 64},
    "mixed": {"parts": [{"model": "item_cf"}, {"model": "pure_svd", "options": {"factors": 8}}]},
    "multimodal_gcn": {"epochs": 2, "batch_size": 16, "modalities": ["cover"]},
    "pure_svd": {"factors": 4},
}
SOURCES = {"item_neighbours": 0.2, "user_vector": 0.5, "topics": 0.3}
ORDER = np.random.default_rng(5).permutation(40)  # the rows of the table, by the numbers of their videos
KNOWN = 36  # the model knows the videos before this one


def collaborative_items() -> pa.Table:
    """A video's vectors are twice and three times its content vector; its neighbours are the next two of its topic."""
    given = embeddings(40)
    rows = pc.index_in(pa.array([video(n) for n in ORDER]), value_set=given["video_id"].combine_chunks())
    content = np.array([vector or [0.0] * 4 for vector in given["vector"].take(rows).to_pylist()])
    content[ORDER >= KNOWN] = 9
    row_of = {number: row + 1 for row, number in enumerate(ORDER.tolist())}
    return pa.table(
        {
            "video_id": [video(n) for n in ORDER],
            "known": ORDER < KNOWN,
            "neighbours": [[row_of.get(n + 4, 0), row_of.get(n + 8, 0)] for n in ORDER.tolist()],
            "weights": [[0.9 * (n + 4 < 40), 0.3 * (n + 8 < 40)] for n in ORDER.tolist()],
            "clicked": (2 * content).tolist(),
            "candidate": (3 * content).tolist(),
        }
    )


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a workspace whose bundle has what a collaborative model says."""
    config = build_workspace(tmp_path_factory.mktemp("learned"))
    config = with_values(config, {"collaborative": {}, "recall": {"sources": SOURCES, "candidates": 20, "min_exposures": 3}})
    workspace = Workspace(config.workspace)
    run_stage(workspace, write_tables({"collaborative_items": collaborative_items()}), config)
    run_stage(workspace, load_stage("publish"), config)
    return config


def load(config: Config) -> Bundle:
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    return Bundle.load(workspace.fs, folder, version)


def test_a_bundle_has_the_neighbours_and_vectors_of_its_own_items(learned: Config) -> None:
    bundle = load(learned)
    neighbours, vectors, content = bundle.neighbours, bundle.user_vectors, bundle.vectors
    assert neighbours is not None
    assert vectors is not None
    assert content is not None
    for number in range(28):
        item = bundle.item_of[video(number)]
        assert [bundle.item_ids[other] for other in neighbours.items[item]] == [video(number + 4), video(number + 8)]
        assert neighbours.weights[item].tolist() == pytest.approx([0.9, 0.3])
        np.testing.assert_allclose(vectors.clicked[item], 2 * content[item - 1], rtol=1e-6)
        np.testing.assert_allclose(vectors.candidate[item], 3 * content[item - 1], rtol=1e-6)
    assert not vectors.candidate.flags.owndata  # it is mapped
    for number in range(KNOWN, 39):  # nobody has clicked them
        item = bundle.item_of[video(number)]
        np.testing.assert_allclose(vectors.candidate[item], 3 * content[item - 1], atol=0.05)
        alike = [int(bundle.item_ids[other][1:]) for other in neighbours.items[item]]
        assert {topic_of(other) for other in alike} == {topic_of(number)}
    unknown = bundle.item_of["v39"]  # of which there is no content vector either
    assert not vectors.candidate[unknown].any()
    assert not neighbours.items[unknown].any()


def test_a_bundle_without_a_model_has_none(bundle: Bundle) -> None:
    assert bundle.neighbours is bundle.user_vectors is None


def test_a_damaged_table_is_refused(learned: Config) -> None:
    path = Path(locate(Workspace(learned.workspace), None)[1]) / "vectors.arrow"
    data = path.read_bytes()
    path.write_bytes(data[:-40] + bytes(40))
    with pytest.raises(BundleError, match=r"vectors\.arrow is not the file that was published"):
        load(learned)
    path.write_bytes(data)


def test_pages_hold_what_each_source_brings_and_what_was_uploaded(learned: Config, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "events.db")
    recommender = Recommender(load(learned), store, rank_by_number, learned.recall, learned.selection, seed=0)
    page = ask(recommender, "u3")
    assert {"similar", "taste"} <= set(page.why.tolist())
    tasted = page.items[page.why == "taste"]
    # u3 likes topic 3, towards which the vectors of topic 2 are turned.
    assert {topic_of(int(video_id[1:])) for video_id in recommender.items.ids(tasted)} <= {2, 3}
    add(recommender, added("n1", title="uploaded"), model=recommender.bundle.model)
    recommender.refresh(now_ms())
    vectors, item = recommender.items.user_vectors, recommender.items.find("n1")
    assert vectors is not None
    user = vectors.user(recommender.user("u3").clicked)
    assert item in vectors.nearest(user, 12)
    later = asyncio.run(recommender.preview("u3", 1000))
    assert later.why[later.items.tolist().index(item)] == "taste"
    # Who has clicked nothing but the new video is served by what it is like.
    alone = vectors.nearest(vectors.user(np.array([item])), 10)
    assert {topic_of(int(each[1:])) for each in recommender.items.ids(alone[alone != item])} == {3}
    store.close()


def test_videos_that_came_after_the_model_are_reached_by_their_content(tmp_path: Path) -> None:
    config = build_workspace(tmp_path)
    config = with_values(config, {"collaborative": {}, "recall": {"sources": SOURCES, "candidates": 20}})
    run_stage(Workspace(config.workspace), write_tables({"collaborative_items": collaborative_items()}), config)
    publish_catalog_of(config, 44)
    bundle = load(config)
    vectors, neighbours, content = bundle.user_vectors, bundle.neighbours, bundle.vectors
    assert vectors is not None
    assert neighbours is not None
    assert content is not None
    for number in range(40, 44):
        item = bundle.item_of[video(number)]
        np.testing.assert_allclose(vectors.candidate[item], 3 * content[item - 1], atol=0.05)
        assert {topic_of(int(bundle.item_ids[other][1:])) for other in neighbours.items[item]} == {topic_of(number)}


def test_what_a_source_lacks_is_said_before_a_bundle_is_made(learned: Config, tmp_path: Path) -> None:
    config = build_workspace(tmp_path)
    missing = with_values(config, {"collaborative": {}, "recall": {"sources": {"item_neighbours": 1}}})
    with pytest.raises(ConfigError, match=r"recall.sources.item_neighbours: .*run `rayrec collaborative CONFIG`"):
        run_stage(Workspace(config.workspace), load_stage("publish"), missing)
    bare = collaborative_items().drop_columns(["clicked", "candidate"])
    run_stage(Workspace(config.workspace), write_tables({"collaborative_items": bare}), config)
    with pytest.raises(ConfigError, match=r"recall.sources.user_vector: .*choose a `collaborative.model` that has some"):
        run_stage(Workspace(config.workspace), load_stage("publish"), with_values(missing, {"recall": {"sources": SOURCES}}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a workspace in which the models of a test are fitted one after the other."""
    config = build_workspace(tmp_path_factory.mktemp("models"))
    vectors = pa.table({"video_id": embeddings(40)["video_id"], "cover": embeddings(40)["vector"]})
    run_stage(Workspace(config.workspace), write_tables({"vectors": vectors}), config, force=True)  # in place of those that it has
    return config


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_RATINGS])
def test_every_model_is_fitted_published_and_serves_pages(name: str, world: Config, tmp_path: Path) -> None:
    model = {"model": name, "options": OPTIONS.get(name, {})}
    config = with_values(world, {"collaborative": model, "recall.sources": {"item_neighbours": 0.4}, "recall.candidates": 20})
    workspace = Workspace(config.workspace)
    run_stage(workspace, load_stage("collaborative"), config)
    if not workspace.read("collaborative_items")["clicked"].null_count:
        config = with_values(config, {"recall.sources": {"user_vector": 0.4, "item_neighbours": 0.4}})
    run_stage(workspace, load_stage("publish"), config)
    store = SqliteStore(tmp_path / "events.db")
    recommender = Recommender(load(config), store, rank_by_number, config.recall, config.selection, seed=0)
    page = asyncio.run(recommender.preview("u3", 20))
    expected = {"similar", "taste"} if recommender.items.user_vectors else {"similar"}
    assert expected & set(page.why.tolist())
    store.close()


def test_a_large_catalog_gets_a_graph(learned: Config) -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    bundle = load(learned)
    tables = tables_of(bundle.neighbours, bundle.user_vectors, exact_videos=30)
    assert set(tables) == {"neighbours", "vectors", "tower", "graph"}
    assert set(tables_of(bundle.neighbours, bundle.user_vectors, exact_videos=41)) == {"neighbours", "vectors", "tower"}
    graphed = vectors_of({name: table.combine_chunks() for name, table in tables.items()})
    assert graphed is not None
    assert bundle.user_vectors is not None
    user = graphed.user(np.array([3]))
    assert graphed.nearest(user, 3).tolist() == bundle.user_vectors.nearest(user, 3).tolist()
