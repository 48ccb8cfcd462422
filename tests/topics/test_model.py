"""The topic model: embedding, joining, its file, and videos that come later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from rayrec import tables
from rayrec.config import CoverNetwork, Topics
from rayrec.errors import RayrecError
from rayrec.topics import encoders, tag_graph
from rayrec.topics.clustering import cluster
from rayrec.topics.fitting import train_representation
from rayrec.topics.model import RIDGE, TopicModel, centred, join
from rayrec.topics.representation import RECORD, NothingToReadError, Representation
from tests.fixtures.topics import SMALL, LittleWorld, little_world

from .test_contents import jpeg


def model_of(world: LittleWorld, settings: Topics = SMALL, features: pa.Table | None = None) -> TopicModel:
    videos_tags, names = tag_graph.incidence(world.catalog["tags"], 100)
    vectors = tag_graph.tag_vectors(videos_tags, names, settings, 0)
    return TopicModel(train_representation(world.catalog, world.vectors, features, settings, 0), names, vectors)


@pytest.mark.parametrize("title_encoder", ["bag", "transformer"])
def test_a_saved_model_gives_new_videos_the_same_embedding(tmp_path: Path, title_encoder: str) -> None:
    world, later = little_world(), little_world(20, seed=1)
    model = model_of(world, SMALL.model_copy(update={"epochs": 2, "title_encoder": title_encoder}))
    joint, described = model.fit_join(world.catalog, world.vectors, None)
    assert described.all()
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, rtol=1e-5)
    model.centres = joint[:3]
    model.save(pafs.LocalFileSystem(), str(tmp_path))
    written = {
        "tag_vectors": pa.table({"tag": model.tags, "vector": list(model.tag_vectors)}),
        "topic_centres": pa.table({"topic": [0, 1, 2], "centre": list(model.centres)}),
    }
    restored = TopicModel.load(pafs.LocalFileSystem(), str(tmp_path), written.__getitem__)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pt")]
    np.testing.assert_array_equal(restored.join(world.catalog, world.vectors, None)[0], joint)
    np.testing.assert_array_equal(restored.centres, joint[:3])
    new = restored.join(later.catalog, later.vectors, None)[0]
    np.testing.assert_array_equal(new, model.join(later.catalog, later.vectors, None)[0])
    nearest = (new @ joint.T).argmax(axis=1)
    assert (world.kinds[nearest] == later.kinds).mean() > 0.8


def test_covers_are_read_as_pixels_by_a_network_that_is_trained_with_the_rest(tmp_path: Path) -> None:
    world = little_world(24)
    covers = [jpeg(40, 40, ("red", "blue")[kind % 2]) for kind in world.kinds]
    features = tables.from_columns(
        "features", {"video_id": world.catalog["video_id"].to_pylist(), "status": ["ok"] * 24, "cover_jpeg": covers}
    )
    settings = SMALL.model_copy(update={"epochs": 1, "cover_network": CoverNetwork(model="resnet18", weights="none", size=32)})
    start = Representation.start(world.catalog, world.vectors, features, settings, 0)
    before = {name: value.clone() for name, value in start.encoders.covers.body.named_parameters()}
    trained = train_representation(world.catalog, world.vectors, features, settings, 0)
    changed = [name for name, value in trained.encoders.covers.body.named_parameters() if not (value == before[name]).all()]
    assert len(changed) == len(before)
    trained.save(pafs.LocalFileSystem(), str(tmp_path))
    restored = Representation.load(pafs.LocalFileSystem(), str(tmp_path))
    first, second = (TopicModel(one, [], np.empty((0, 1))).known(world.catalog, None, features).z for one in (trained, restored))
    np.testing.assert_array_equal(first, second)


def test_a_pretrained_transformer_is_trained_on_and_saved_whole(tmp_path: Path, tiny_bert: Path) -> None:
    world = little_world(24)
    settings = SMALL.model_copy(update={"epochs": 1, "title_encoder": str(tiny_bert), "modalities": []})
    start = Representation.start(world.catalog, None, None, settings, 0)
    before = {name: value.clone() for name, value in start.encoders.titles.body.named_parameters()}
    trained = train_representation(world.catalog, None, None, settings, 0)
    after = dict(trained.encoders.titles.body.named_parameters())
    moved = [(after[name] - value).abs().max().item() for name, value in before.items() if "pooler" not in name]
    assert 0 < max(moved) <= 1.1 * settings.fine_tuning_rate  # one step of Adam at its own rate
    trained.save(pafs.LocalFileSystem(), str(tmp_path))
    restored = Representation.load(pafs.LocalFileSystem(), str(tmp_path))
    first, second = (TopicModel(one, [], np.empty((0, 1))).known(world.catalog, None, None).z for one in (trained, restored))
    np.testing.assert_array_equal(first, second)


def test_what_a_catalog_lacks_is_left_out() -> None:
    world = little_world(40)
    bare = tables.from_columns("catalog", {"video_id": ["a", "b"]})
    with pytest.raises(NothingToReadError):
        Representation.start(bare, None, None, SMALL, 0)
    joint, described = TopicModel(None, [], np.empty((0, 8), np.float32)).fit_join(bare, None, None)
    assert not described.any()
    assert len(joint) == 2
    model = model_of(world, SMALL.model_copy(update={"epochs": 1}))
    model.fit_join(world.catalog, world.vectors, None)
    unknown = tables.from_columns("catalog", {"video_id": ["a", "b"], "title": [None, "sun"], "tags": [["never seen"], []]})
    assert model.join(unknown, None, None)[1].tolist() == [False, True]


def test_join_weighs_the_parts_of_a_video_that_has_several() -> None:
    parts = [np.array([[30.0, 40.0], [0.0, 0.0]]), np.array([[0.0, 0.1], [1.0, 0.0]])]
    expected = np.array([[0.6, 0.8, 0, 1], [0, 0, np.sqrt(2), 0]]) / np.sqrt(2)
    np.testing.assert_allclose(join(parts, [1, 1]), expected, rtol=1e-6)
    expected = np.array([[0.3, 0.4, 0, 1], [0, 0, np.sqrt(1.25), 0]]) / np.sqrt(1.25)
    np.testing.assert_allclose(join(parts, [0.5, 1]), expected, rtol=1e-6)
    np.testing.assert_array_equal(centred(parts[0], np.array([1.0, 2.0])), [[29, 38], [0, 0]])


def test_a_model_of_another_version_is_refused_with_a_sentence(tmp_path: Path) -> None:
    world = little_world()
    model = model_of(world, SMALL.model_copy(update={"epochs": 1}))
    assert model.representation is not None
    model.representation.save(pafs.LocalFileSystem(), str(tmp_path))
    record = tmp_path / RECORD
    record.write_text(record.read_text().replace('"max_topics"', '"most_topics"'))  # the key of rayrec 0.1
    with pytest.raises(RayrecError, match="topic model of another version of rayrec; run `rayrec topics learn CONFIG`"):
        Representation.load(pafs.LocalFileSystem(), str(tmp_path))


def test_encoders_of_other_shapes_are_refused_with_the_same_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of an earlier rayrec, whose transformer had two layers."""
    world = little_world(24)
    settings = SMALL.model_copy(update={"epochs": 0, "title_encoder": "transformer"})
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "LAYERS", 2)
        Representation.start(world.catalog, None, None, settings, 0).save(pafs.LocalFileSystem(), str(tmp_path))
    with pytest.raises(RayrecError, match="topic model of another version of rayrec"):
        Representation.load(pafs.LocalFileSystem(), str(tmp_path))


# For each language, the words of three kinds of videos.
SUBJECTS = {
    "english": ["noodle soup broth egg", "goal football pitch cup", "cat kitten purr nap"],
    "chinese": ["拉面 汤 好吃 面条", "足球 进球 球场 比赛", "小猫 猫咪 可爱 睡觉"],
    "emoji": ["🍜 🍲 🥢 🍥", "⚽ 🥅 🏟 🏆", "🐱 🐈 😺 🐾"],
}


@pytest.mark.parametrize("title_encoder", ["bag", "transformer"])
@pytest.mark.parametrize("language", SUBJECTS)
@pytest.mark.parametrize("lacking", ["nothing", "tags", "title"])
def test_videos_of_one_subject_share_a_topic_in_any_script_and_without_tags_or_title(
    title_encoder: str, language: str, lacking: str
) -> None:
    """A third of the videos lack it, and so do all that come later; no class is known of those."""
    rng = np.random.default_rng(0)
    words = [subject.split() for subject in SUBJECTS[language]]
    kinds = rng.integers(0, 3, 180)
    titles = [" ".join(rng.choice(words[kind], 3, replace=False)) for kind in kinds]
    tags = [rng.choice(words[kind], 2, replace=False).tolist() for kind in kinds]
    without = (np.arange(180) % 3 == 0) | (np.arange(180) >= 150)
    columns = {
        "video_id": [f"v{row}" for row in range(180)],
        "title": [None if lacking == "title" and gone else title for title, gone in zip(titles, without, strict=True)],
        "tags": [[] if lacking == "tags" and gone else some for some, gone in zip(tags, without, strict=True)],
        "primary_class": [f"class {kind}" for kind in kinds[:150]] + [None] * 30,
    }
    catalog = tables.from_columns("catalog", columns)
    known, later = catalog.slice(0, 150), catalog.slice(150)
    settings = SMALL.model_copy(update={"title_encoder": title_encoder, "tag_size": 4})
    matrix, names = tag_graph.incidence(known["tags"], 100)
    vectors = tag_graph.tag_vectors(matrix, names, settings, 0)
    model = TopicModel(train_representation(known, None, None, settings, 0), names, vectors)
    joint, described = model.fit_join(known, None, None)
    assert described.all()
    centres = cluster(joint, 3, 0)
    subject_of = [np.bincount(kinds[:150][(joint @ centres.T).argmax(axis=1) == topic]).argmax() for topic in range(3)]
    new, described = model.join(later, None, None)
    assert described.all()
    found = np.array(subject_of)[(new @ centres.T).argmax(axis=1)]
    assert (found == kinds[150:]).mean() >= 0.9


def test_the_guess_is_the_ridge_regression_from_title_to_tags_whatever_the_blocks() -> None:
    world = little_world(60)
    bare = world.catalog.set_column(
        world.catalog.schema.get_field_index("tags"),
        "tags",
        pa.array(
            [[] if row % 4 == 0 else some for row, some in enumerate(world.catalog["tags"].to_pylist())], pa.list_(tables.TEXT)
        ),
    )
    settings = SMALL.model_copy(update={"epochs": 2})
    matrix, names = tag_graph.incidence(bare["tags"], 100)
    vectors = tag_graph.tag_vectors(matrix, names, settings, 0)
    model = TopicModel(train_representation(bare, world.vectors, None, settings, 0), names, vectors)
    joint, _ = model.fit_join(bare, world.vectors, None)
    known = model.known(bare, world.vectors, None)
    z, e = model.centred(known)
    telling = model.telling(known)
    both = e.any(axis=1)
    assert both.sum() == 45
    np.testing.assert_array_equal(telling > 0, both)
    ridge = RIDGE * np.trace(z.T @ (telling[:, None] * z)) / z.shape[1]
    fitted = Ridge(alpha=ridge, fit_intercept=False).fit(z[both], e[both], sample_weight=telling[both])
    expected = telling[:, None] * e + (1 - telling[:, None]) * fitted.predict(z)
    np.testing.assert_allclose(joint, normalize(np.hstack([settings.z_weight * z, normalize(expected)])), atol=1e-4)


def test_a_model_is_the_same_whatever_the_blocks() -> None:
    world = little_world(60)
    model = model_of(world, SMALL.model_copy(update={"epochs": 2}))
    joint, _ = model.fit_join(world.catalog, world.vectors, None)
    blocks = [model.known(world.catalog.slice(start, 20), world.vectors, None) for start in (0, 20, 40)]
    model.fit(lambda work, *arguments: [work(block, *arguments) for block in blocks])
    np.testing.assert_allclose(np.vstack([model.joined(block)[0] for block in blocks]), joint, atol=1e-4)


def test_tags_that_any_video_may_have_tell_little() -> None:
    """A third of the videos have no other tags. Their topics are those of their titles."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 240)
    words = [subject.split() for subject in SUBJECTS["english"]]
    noise = ["viral", "fyp", "vlog", "summer"]
    columns = {
        "video_id": [f"v{row}" for row in range(240)],
        "title": [" ".join(rng.choice(words[kind], 3, replace=False)) for kind in kinds],
        "tags": [
            [*rng.choice(noise, 2, replace=False), *([] if row % 3 == 0 else rng.choice(words[kind], 2, replace=False))]
            for row, kind in enumerate(kinds)
        ],
        "primary_class": [f"class {kind}" for kind in kinds],
    }
    catalog = tables.from_columns("catalog", columns)
    settings = SMALL.model_copy(update={"tag_size": 4})
    matrix, names = tag_graph.incidence(catalog["tags"], 100)
    vectors = tag_graph.tag_vectors(matrix, names, settings, 0)
    model = TopicModel(train_representation(catalog, None, None, settings, 0), names, vectors)
    joint, _ = model.fit_join(catalog, None, None)
    assert model.tag_weights is not None
    weights = dict(zip(names, model.tag_weights.tolist(), strict=True))
    assert max(weights[tag] for tag in noise) < 0.2
    assert min(weights[tag] for subject in words for tag in subject) > 0.6
    z = model.centred(model.known(catalog, None, None))[0].astype(float)
    cosines = z @ z.T
    for tag in ("viral", "soup"):
        members = np.flatnonzero([tag in tags for tags in columns["tags"]])
        pairs = cosines[np.ix_(members, members)][np.triu_indices(len(members), 1)]
        weights[tag] = pairs.mean()
    assert weights["viral"] / weights["soup"] == pytest.approx(
        model.tag_weights[names.index("viral")] / model.tag_weights[names.index("soup")], abs=0.05
    )
    bare = np.arange(240) % 3 == 0
    nearest = (joint[bare] @ joint[~bare].T).argmax(axis=1)
    assert (kinds[~bare][nearest] == kinds[bare]).mean() > 0.9


def test_tags_weigh_alike_where_no_two_videos_share_one() -> None:
    world = little_world(24)
    index = world.catalog.schema.get_field_index("tags")
    own = pa.array([[f"tag {row}"] for row in range(24)], pa.list_(tables.TEXT))
    world = replace(world, catalog=world.catalog.set_column(index, "tags", own))
    model = model_of(world, SMALL.model_copy(update={"epochs": 1}))
    joint, described = model.fit_join(world.catalog, world.vectors, None)
    assert model.tag_weights is None
    assert described.all()
    assert np.isfinite(joint).all()
