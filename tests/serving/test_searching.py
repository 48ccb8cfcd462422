"""Search over a published bundle: what `publish` writes, and what queries find there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rayrec.config import Config
from rayrec.recall.items import item_vectors
from rayrec.retrieval.index import Filters
from rayrec.serving import searching
from rayrec.serving.bundle import BundleError
from rayrec.serving.search_query import SearchError, SearchQuery
from rayrec.serving.searching import FOLDER, VECTORS, Searcher
from rayrec.stages.search_index import STAGE
from rayrec.workspace.files import checksum, to_json
from rayrec.workspace.stage import Stage, StageRun, run_stage
from tests.features.clips import tone
from tests.features.media.test_uploads import wav
from tests.fixtures.search import QUICK, WORDS, SearchWorld, put_world, search_config, search_world

FS = pafs.LocalFileSystem()


def published(config: Config, world: SearchWorld) -> tuple[str, pa.Table]:
    """The folder of a bundle that holds its search index alone, and its items, in another order than the index."""
    workspace = put_world(config, world)
    run_stage(workspace, STAGE, config)
    items = pa.concat_tables([world.catalog.slice(50), world.catalog.slice(0, 50)])

    def work(run: StageRun) -> None:
        searching.write(run, f"{run.folder}/bundle", items["video_id"].to_pylist())
        names = ["search/space.json", "search/space.safetensors", "search/vectors.npy"]
        run.write_file("bundle/bundle.json", to_json({"format": 5, "log_until": 0, "max_clicks": 1}))
        sums = {name: checksum(run.fs, f"{run.folder}/bundle/{name}") for name in names}
        run.write_file("bundle/checksums.json", to_json(sums))
        run.count(0, 0)

    run_stage(workspace, Stage("publish", work, may_read=("search_vectors",)), config, force=True)
    return f"{workspace.folder('publish')}/bundle", items


@pytest.fixture(scope="module")
def world() -> SearchWorld:
    return search_world()


@pytest.fixture(scope="module")
def bundle(world: SearchWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pa.Table]:
    return published(search_config(str(tmp_path_factory.mktemp("search"))), world)


@pytest.fixture
def searcher(bundle: tuple[str, pa.Table]) -> Searcher:
    folder, items = bundle
    return Searcher.load(FS, folder, items, QUICK)


def test_words_find_videos_of_their_class_among_those_that_pass(searcher: Searcher, world: SearchWorld) -> None:
    found = searcher.search(SearchQuery("text", "puppy bark", 10))
    assert len(found.video_ids) == 10
    assert np.mean([world.kinds[int(each[1:])] == 0 for each in found.video_ids]) > 0.8
    assert found.scores == sorted(found.scores, reverse=True)
    assert min(found.scores) > found.floor == searcher.model.floors["text"]
    assert set(found.tags) & set(WORDS[0])
    few = searcher.search(SearchQuery("text", "puppy bark", 10, -1.0, Filters("sea", "a1", 30_000)))
    rows = [int(each[1:]) for each in few.video_ids]
    assert rows
    assert all(world.kinds[row] == 1 and row % 4 == 1 and row >= 30 for row in rows)


def test_a_query_of_which_nothing_is_known_finds_nothing(searcher: Searcher) -> None:
    assert searcher.search(SearchQuery("text", "puppy", 10, min_score=1.0)).video_ids == []


def test_a_kind_that_the_index_does_not_know_is_refused(world: SearchWorld, tmp_path: Path) -> None:
    folder, items = published(search_config(str(tmp_path), modalities=["text", "cover"], epochs=1), world)
    with pytest.raises(SearchError, match="can't be searched by sound; it was made for text, picture") as refused:
        Searcher.load(FS, folder, items, QUICK).search(SearchQuery("sound", wav(tone(440, 1)), 10))
    assert refused.value.status == 422


def test_a_bundle_without_an_index_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="bundle v1 has no search index; run `rayrec search_index CONFIG`") as refused:
        Searcher.load(FS, str(tmp_path / "v1" / "bundle"), search_world(3).catalog, QUICK)
    assert refused.value.status == 404


def test_a_damaged_index_is_refused(world: SearchWorld, tmp_path: Path) -> None:
    folder, items = published(search_config(str(tmp_path), epochs=1), world)
    path = Path(folder) / FOLDER / VECTORS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="its checksum differs"):
        Searcher.load(FS, folder, items, QUICK)


def test_new_videos_are_found_as_if_they_had_been_indexed(searcher: Searcher, world: SearchWorld) -> None:
    new = search_world(20, seed=7, first=500)
    shuffled = new.features.take(np.random.default_rng(0).permutation(20))
    searcher.add(new.catalog, shuffled)
    assert len(searcher.index) == 170
    query = searcher.model.query_vectors("text", searcher.reader.texts(["sea wave"]))[0][0]
    vectors = searcher.model.video_vectors(searcher.model.inputs(new.features, new.catalog["title"].to_pylist()))
    expected = [f"v{500 + row}" for row in np.argsort(-(vectors @ query)) if (500 + row) % 4 == 2]
    found = searcher.search(SearchQuery("text", "sea wave", 50, -1.0, Filters(author="a2", since=500_000)))
    assert found.video_ids == expected


def test_a_new_video_is_found_by_words_that_no_title_had_before(bundle: tuple[str, pa.Table], world: SearchWorld) -> None:
    folder, items = bundle
    searcher = Searcher.load(FS, folder, items, QUICK)
    new = search_world(1, seed=7, first=900)
    titles = pa.chunked_array([pa.array(["zebra crossing unicycle parade"], pa.large_string())])
    query = SearchQuery("text", "Zebra unicycle", 10)
    assert "v900" not in searcher.search(query).video_ids
    searcher.add(new.catalog.set_column(new.catalog.column_names.index("title"), "title", titles), new.features)
    found = searcher.search(query)
    assert (found.video_ids[0], found.scores[0]) == ("v900", pytest.approx(1))


def test_a_large_catalog_has_a_graph(world: SearchWorld, tmp_path: Path) -> None:
    pytest.importorskip("usearch", reason="the extra `search` is not installed")
    folder, items = published(search_config(str(tmp_path), epochs=1, exact_videos=100), world)
    assert (Path(folder) / FOLDER / "graph.usearch").is_file()
    approximate = Searcher.load(FS, folder, items, QUICK.model_copy(update={"exact_videos": 100}))
    exact = Searcher.load(FS, folder, items, QUICK)
    query = SearchQuery("text", "guitar chord", 10, -1.0)
    assert len({*approximate.search(query).video_ids} & {*exact.search(query).video_ids}) >= 9


def test_vectors_are_in_the_order_of_the_bundle(bundle: tuple[str, pa.Table], searcher: Searcher) -> None:
    folder, items = bundle
    kept = np.load(Path(folder) / FOLDER / VECTORS, allow_pickle=False)
    assert kept.dtype == np.float16
    position = items["video_id"].to_pylist().index("v3")
    assert item_vectors(None, []) is None
    found, _ = searcher.index.search(kept[position].astype(np.float32), 1)
    assert found == ["v3"]
