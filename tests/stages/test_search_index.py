"""The stage `search_index`: what it learns and writes, and what a second run does again."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.config import Config, ConfigError
from rayrec.retrieval.inputs import TEXT, hashed
from rayrec.retrieval.model import SearchModel
from rayrec.stages import search_index
from rayrec.stages.search_index import STAGE
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.search import QUICK, WORDS, put_world, search_config, search_world


def vectors_of(workspace: Workspace) -> dict[str, np.ndarray]:
    table = workspace.read("search_vectors")
    return dict(zip(table["video_id"].to_pylist(), map(np.array, table["vector"].to_pylist()), strict=True))


def model_of(workspace: Workspace) -> SearchModel:
    return SearchModel.load(workspace.fs, f"{workspace.folder('search_index')}/model")


def parts_of(workspace: Workspace) -> set[str]:
    return {os.path.basename(path) for path in workspace.parts("search_vectors")}


def test_words_find_the_videos_of_their_class(tmp_path: Path) -> None:
    world, config = search_world(), search_config(str(tmp_path))
    workspace = put_world(config, world)
    manifest, done = run_stage(workspace, STAGE, config)
    assert (done, manifest.rows_in, manifest.rows_out) == (True, 150, 150)
    vectors, model = vectors_of(workspace), model_of(workspace)
    assert all(abs(np.linalg.norm(vector) - 1) < 1e-5 for vector in vectors.values())
    for kind, words in enumerate(WORDS):
        (query,), _ = model.query_vectors(TEXT, hashed([" ".join(words)]))
        best = sorted(vectors, key=lambda each: -float(vectors[each] @ query))[:20]
        assert np.mean([world.kinds[int(each[1:])] == kind for each in best]) > 0.9
    assert run_stage(workspace, STAGE, config)[1] is False


def test_a_grown_catalog_costs_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, config = search_world(), search_world(10, seed=5, first=150), search_config(str(tmp_path))
    run_stage(put_world(config, old), STAGE, config)
    workspace = Workspace(config.workspace)
    before, parts = vectors_of(workspace), parts_of(workspace)
    monkeypatch.setattr(search_index, "_learn", lambda run: pytest.fail("the space was learned again"))
    put_world(config, old, new)
    manifest, _ = run_stage(workspace, STAGE, config)
    assert manifest.rows_out == 160
    assert len(manifest.shared) == 1
    assert parts_of(workspace) > parts
    after = vectors_of(workspace)
    assert all((after[each] == before[each]).all() for each in before)
    # A new title is another part; the space stays.
    titles = pc.if_else(pc.equal(new.catalog["video_id"], "v155"), "guitar song chord", new.catalog["title"])
    changed = new.catalog.set_column(new.catalog.column_names.index("title"), "title", titles.cast(new.catalog["title"].type))
    put_world(config, old, type(new)(changed, new.features, new.kinds))
    run_stage(workspace, STAGE, config)
    assert len(parts_of(workspace) & parts) == 1
    assert not (vectors_of(workspace)["v155"] == after["v155"]).all()


def test_other_settings_other_networks_and_force_learn_anew(tmp_path: Path) -> None:
    config = search_config(str(tmp_path), epochs=1)
    workspace = put_world(config, search_world(40))
    learned: list[int] = []

    def run(config: Config, force: bool = False) -> None:
        with pytest.MonkeyPatch.context() as patch:
            learn = search_index._learn
            patch.setattr(search_index, "_learn", lambda run: (learned.append(1), learn(run)))
            run_stage(workspace, STAGE, config, force)

    run(config)
    run(config)
    assert len(learned) == 1
    run(search_config(str(tmp_path), epochs=1, max_upload_bytes=100))
    assert len(learned) == 1
    run(search_config(str(tmp_path), epochs=2))
    assert len(learned) == 2
    run(search_config(str(tmp_path), epochs=2), force=True)
    assert len(learned) == 3
    other = search_config(str(tmp_path), epochs=2)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # the features now come from other networks
        patch.setattr(search_index, "_origin", lambda run: {"extract": {"other": 1}})
        put_world(other, search_world(40))
        run(other)
    assert len(learned) == 4


def test_a_run_that_was_killed_after_the_learning_goes_on_with_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = search_config(str(tmp_path), epochs=2)
    workspace = put_world(config, search_world(40))
    with monkeypatch.context() as patch:
        patch.setattr(search_index, "_embed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_stage(workspace, STAGE, config)
    monkeypatch.setattr(search_index, "_learn", lambda run: pytest.fail("the space was learned again"))
    assert run_stage(workspace, STAGE, config)[0].rows_out == 40


def test_videos_of_which_only_the_title_is_known_are_found(tmp_path: Path) -> None:
    world, config = search_world(60), search_config(str(tmp_path), epochs=2)
    workspace = put_world(config, type(world)(world.catalog, world.features.slice(0, 50), world.kinds))
    assert run_stage(workspace, STAGE, config)[0].rows_out == 60
    assert "v57" in vectors_of(workspace)


def test_a_catalog_with_nothing_to_search_by_has_an_empty_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world, config = search_world(20), search_config(str(tmp_path), modalities=["motion"])
    workspace = put_world(config, world)
    with caplog.at_level("WARNING"):
        assert run_stage(workspace, STAGE, config)[0].rows_out == 0
    assert "there is nothing to search by" in caplog.text


def test_a_sample_is_enough_to_learn_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = search_config(str(tmp_path), epochs=2, learn_videos=40)
    workspace = put_world(config, search_world(200))
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        sample = search_index._sample
        patch.setattr(search_index, "_sample", lambda *given: (seen.append((found := sample(*given))[0].count), found)[1])
        assert run_stage(workspace, STAGE, config)[0].rows_out == 200
    assert 20 < seen[0] < 60


def test_the_config_is_checked_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"add `search: \{\}`"):
        STAGE.check(Config())
    with pytest.raises(ConfigError, match=r"search\.gpus_per_worker"):
        STAGE.check(Config(search=QUICK.model_copy(update={"gpus_per_worker": 1})))


def test_two_workers_of_ray_learn_the_space_and_embed_a_large_catalog(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worlds = search_world(100), search_world(50, seed=5, first=100)
    here, there = (search_config(str(tmp_path / name), epochs=3, workers=workers) for name, workers in (("a", 0), ("b", 2)))
    run_stage(put_world(here, *worlds), STAGE, here)
    monkeypatch.setattr(search_index, "LOCAL_VIDEOS", 99)
    run_stage(put_world(there, *worlds), STAGE, there)
    one, other = vectors_of(Workspace(here.workspace)), vectors_of(Workspace(there.workspace))
    assert one.keys() == other.keys()
    np.testing.assert_allclose([one[each] for each in one], [other[each] for each in one], atol=1e-3)


def test_the_table_is_as_its_schema_says(tmp_path: Path) -> None:
    config = search_config(str(tmp_path), epochs=1)
    workspace = put_world(config, search_world(30))
    run_stage(workspace, STAGE, config)
    table = workspace.read("search_vectors")
    assert table.schema.field("vector").type == pa.list_(pa.float32())
    assert len(table["vector"][0]) == QUICK.size
