"""The search model: what it saves, the tags that move a query, and the floor."""

import json
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from rayrec.config import Features
from rayrec.errors import RayrecError
from rayrec.retrieval.fitting import fit
from rayrec.retrieval.inputs import TEXT, hashed
from rayrec.retrieval.labels import Labels
from rayrec.retrieval.model import RECORD, SearchModel
from tests.fixtures.search import QUICK, WORDS, SearchWorld, search_world

FS = pafs.LocalFileSystem()


def learned(world: SearchWorld, **settings: object) -> SearchModel:
    from rayrec.retrieval.inputs import inputs_of

    wanted = QUICK.model_copy(update=settings)
    inputs = inputs_of(world.features, wanted.modalities, world.catalog["title"].to_pylist())
    labels = Labels.of(world.catalog, wanted.max_tags)
    model = SearchModel(fit(inputs, labels, wanted, seed=0), wanted, Features(motion=None), 0)
    model.fit_tags(hashed(labels.names), labels, model.video_vectors(inputs))
    model.fit_floors(inputs, labels)
    return model


@pytest.fixture(scope="module")
def world() -> SearchWorld:
    return search_world()


@pytest.fixture(scope="module")
def model(world: SearchWorld) -> SearchModel:
    return learned(world)


def test_what_is_loaded_gives_the_same_vectors(model: SearchModel, world: SearchWorld, tmp_path: Path) -> None:
    model.save(FS, str(tmp_path))
    loaded = SearchModel.load(FS, str(tmp_path))
    inputs = loaded.inputs(world.features, world.catalog["title"].to_pylist())
    np.testing.assert_array_equal(loaded.video_vectors(inputs), model.video_vectors(inputs))
    found, tags = loaded.query_vectors(TEXT, hashed(["a wave"]))
    expected, _ = model.query_vectors(TEXT, hashed(["a wave"]))
    np.testing.assert_array_equal(found, expected)
    assert (loaded.floors, loaded.tags, loaded.seed) == (model.floors, model.tags, 0)
    assert set(tags[0]) <= set(WORDS[1])


def test_a_model_of_another_version_says_what_to_run(model: SearchModel, tmp_path: Path) -> None:
    model.save(FS, str(tmp_path))
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(record | {"sizes": {"cover": 3}}))
    with pytest.raises(RayrecError, match="`rayrec search_index CONFIG --force`"):
        SearchModel.load(FS, str(tmp_path))


def test_a_query_moves_towards_the_videos_of_the_nearest_tags(model: SearchModel, world: SearchWorld) -> None:
    vectors = model.video_vectors(model.inputs(world.features, world.catalog["title"].to_pylist()))
    (query,), (tags,) = model.query_vectors(TEXT, hashed(["puppy"]))
    assert tags[0] == "puppy"
    assert len(tags) == QUICK.expansion_tags
    still = SearchModel(model.space, QUICK.model_copy(update={"expansion_tags": 0}), model.features, 0, model.tags)
    (plain,), (none,) = still.query_vectors(TEXT, hashed(["puppy"]))
    assert none == []
    tagged = np.array([each == ["puppy"] for each in world.catalog["tags"].to_pylist()])
    assert (vectors[tagged] @ query).mean() > (vectors[tagged] @ plain).mean()
    np.testing.assert_allclose(np.linalg.norm(query), 1, rtol=1e-5)


def test_the_floor_leaves_out_the_wanted_share_of_what_is_unrelated(world: SearchWorld) -> None:
    model, new = learned(world, held_out=0.4, floor=0.9), search_world(300, seed=8)
    inputs = model.inputs(new.features, new.catalog["title"].to_pylist())
    vectors, unrelated = model.video_vectors(inputs), new.kinds[:, None] != new.kinds[None]
    for name in model.space.sizes:
        asks = inputs.present[name]
        scores = model.query_vectors(name, inputs.values[name][asks])[0] @ vectors.T
        above = scores > model.floors[name]
        assert above[unrelated[asks]].mean() == pytest.approx(0.1, abs=0.08), name
        assert above[~unrelated[asks]].mean() > 0.6, name
