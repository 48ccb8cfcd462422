"""Music: what `publish` writes of it, what a bundle says of a video and a user, and how videos that are in no bundle are placed."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from rayrec.config import Config, Search
from rayrec.retrieval.inputs import inputs_of
from rayrec.retrieval.model import SearchModel
from rayrec.serving import music as serving_music
from rayrec.serving.additions import AddedVideo, catalog_table, features_table
from rayrec.serving.bundle import Bundle, BundleError, locate, verify
from rayrec.serving.music import FACTS, TABLES, TRACKS, USERS, Music
from rayrec.serving.search_query import SearchError
from rayrec.serving.searching import Searcher
from rayrec.stages.pipeline import load_stage
from rayrec.tables import VECTOR, TableError
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.serving import music_world as world
from tests.serving.music_world import HIGH, LOW, MEAN, SILENT, build_music_world, sound_of, track, vectors
from tests.serving.small_world import topic_of, video

FS = pafs.LocalFileSystem()


def load(config: Config) -> Bundle:
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    return Bundle.load(workspace.fs, folder, version)


def music_of(bundle: Bundle) -> Music:
    assert bundle.music is not None
    return bundle.music


def made_up(ratings: list[float], sounds: list[list[float]] | None, low: float = 1, high: float = 5) -> Music:
    """Tracks with these ratings by the mean user, and twice as far from 3 by the user `fan`."""
    table = {
        "track_id": [f"t{n}" for n in range(len(ratings))],
        "vector": [[rating - 3] for rating in ratings],
        "space_vector": sounds or pa.nulls(len(ratings)),
    }
    facts = {name: pa.nulls(len(ratings)) for name in ("title", "artist", "uri")}
    tracks = pa.table(table | facts).select(TABLES[TRACKS].names).cast(TABLES[TRACKS])
    users = pa.table({"user_id": ["", "fan"], "vector": [[1.0], [2.0]]}).cast(TABLES[USERS])
    return Music(tracks, users, 3.0, low, high, np.eye(2, dtype=np.float16) if sounds else None)


# --- the choice of tracks ---


def test_a_score_is_the_rating_times_the_fit() -> None:
    music = made_up([4.0, 2.0, 3.0], [[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])
    best = music.best("", np.array([0.8, 0.6]), 3)
    assert best.rows.tolist() == [0, 1, 2]
    np.testing.assert_allclose(best.fits, [0.9, 0.8, 0.5], rtol=1e-6)
    np.testing.assert_allclose(best.ratings, [4, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(best.scores, [3.6, 1.6, 1.5], rtol=1e-6)
    assert music.best("", np.array([-0.6, 0.8]), 1).rows.tolist() == [2]


def test_ratings_stay_within_the_scale_and_are_the_users_own() -> None:
    music = made_up([4.5, 2.5, 1.5], None)
    assert music.ratings("").tolist() == [4.5, 2.5, 1.5]
    assert music.ratings("fan").tolist() == [5, 2, 1]  # 6, 2 and 0
    for stranger in ("nobody", "fam", "fao", "zz", " "):
        assert music.ratings(stranger).tolist() == [4.5, 2.5, 1.5]


def test_without_a_space_or_a_place_the_score_is_the_rating() -> None:
    without, with_space = made_up([2.0, 4.0, 3.0], None), made_up([2.0, 4.0, 3.0], [[1.0, 0.0]] * 3)
    for best in (without.best("", np.array([1.0, 0.0]), 2), with_space.best("", None, 2)):
        assert best.rows.tolist() == [1, 2]
        assert best.scores.tolist() == [4, 3]
        assert np.isnan(best.fits).all()
    assert (without.has_space, with_space.has_space) == (False, True)
    assert without.place_of(1) is None


def test_a_track_without_sound_counts_as_fitting_as_the_others_do_in_the_mean() -> None:
    best = made_up([4.0, 4.0, 4.0], [[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]).best("", np.array([1.0, 0.0]), 3)
    assert best.rows.tolist() == [0, 1, 2]
    assert best.scores.tolist() == [4, 2, 0]
    assert (best.fits[0], np.isnan(best.fits[1]), best.fits[2]) == (1, True, 0)


def test_of_equals_the_first_is_taken_and_k_may_be_more_than_there_is() -> None:
    music = made_up([3.0, 4.0, 4.0, 4.0, 2.0], None)
    assert music.best("", None, 2).rows.tolist() == [1, 2]
    assert music.best("", None, 9).rows.tolist() == [1, 2, 3, 0, 4]
    assert music.best("", None, 5).rows.tolist() == [1, 2, 3, 0, 4]


def test_the_best_of_many_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    of_tracks, sounds = rng.normal(size=(500, 8)), rng.normal(size=(500, 16))
    sounds /= np.linalg.norm(sounds, axis=1, keepdims=True)
    user, place = rng.normal(size=8), sounds[7]
    columns = {"track_id": [f"t{n}" for n in range(500)], "vector": list(of_tracks), "space_vector": list(sounds)}
    table = pa.table(columns | {name: pa.nulls(500) for name in ("title", "artist", "uri")})
    users = pa.table({"user_id": ["", "u"], "vector": [np.zeros(8), user]}).cast(TABLES[USERS])
    music = Music(table.select(TABLES[TRACKS].names).cast(TABLES[TRACKS]), users, 3.0, -9.0, 9.0, np.ones((1, 16), np.float16))
    scores = {}
    for row in range(500):
        rating = 3 + sum(a * b for a, b in zip(of_tracks[row], user, strict=True))
        cosine = sum(a * b for a, b in zip(sounds[row], place, strict=True))
        scores[row] = (min(9.0, max(-9.0, rating)) + 9) * (1 + cosine) / 2  # a scale that begins below zero
    best = music.best("u", place, 20)
    assert best.rows.tolist() == sorted(scores, key=lambda row: -scores[row])[:20]
    np.testing.assert_allclose(best.scores, [scores[row] for row in best.rows], rtol=1e-4)


# --- the bundle ---


@pytest.fixture(scope="module")
def config(music_world: Config) -> Config:
    return music_world


def test_a_bundle_has_the_tracks_the_users_and_the_scale(config: Config) -> None:
    music = music_of(load(config))
    of_tracks, of_users = vectors()
    assert (music.mean, music.low, music.high) == (MEAN, LOW, HIGH)
    assert music.tracks.num_rows == 12
    for number in range(12):
        row = music.find(track(number))
        assert row is not None
        for user, vector in of_users.items():
            expected = np.clip(MEAN + float(of_tracks[number].astype(float) @ vector.astype(float)), LOW, HIGH)
            assert music.ratings(user)[row] == pytest.approx(expected, abs=1e-5)
    assert music.find("t12") is None
    (facts,) = music.facts_of(np.array([music.find(track(6))]))
    assert (facts["title"], facts["artist"]) == ("<i>Tune</i> 6", "Band 0")
    assert facts["uri"].endswith("/media/tone.wav")


def test_tracks_are_placed_by_the_search_model_where_videos_of_their_sound_are(config: Config) -> None:
    bundle, workspace = load(config), Workspace(config.workspace)
    music = music_of(bundle)
    assert music.has_space
    model = SearchModel.load(workspace.fs, f"{workspace.folder('search_index')}/model")
    sounds = pa.table({"audio": pa.array([sound_of(n) for n in range(12)], VECTOR)})
    expected = model.video_vectors(inputs_of(sounds, ["audio"], None))
    place = music.place_of(bundle.item_of[video(2)])
    assert place is not None
    assert np.linalg.norm(place) == pytest.approx(1)
    fits = music.fits(place)
    for number in range(12):
        row = music.find(track(number))
        assert row is not None
        if number in (4, SILENT):
            assert np.isnan(fits[row])
        else:
            assert fits[row] == pytest.approx((1 + float(expected[number] @ place)) / 2, abs=1e-3)  # places are float16 in bundles
    known = [n for n in range(12) if n not in (4, SILENT)]
    by_fit = sorted(known, key=lambda n: -fits[music.find(track(n))])
    assert {topic_of(n) for n in by_fit[:3]} == {2}


def test_without_the_section_a_bundle_has_no_music(published: Config, tmp_path: Path) -> None:
    assert load(published).music is None
    config = build_music_world(tmp_path / "world")
    without = config.model_copy(update={"music": None})  # the tables are still there
    assert run_stage(Workspace(config.workspace), load_stage("publish"), without)[1]
    assert load(without).music is None


def test_without_search_a_bundle_has_ratings_alone(tmp_path: Path) -> None:
    config = world.with_music(world.build_workspace(tmp_path)).model_copy(update={"search": None})
    for stage in (world.MUSIC, load_stage("publish")):
        run_stage(Workspace(tmp_path), stage, config)
    bundle = load(config)
    music = music_of(bundle)
    assert not music.has_space
    assert music.place_of(1) is None
    assert music.best("u0", None, 3).scores.tolist() == sorted(music.ratings("u0").tolist(), reverse=True)[:3]
    (facts,) = music.facts_of(np.array([0]))
    assert facts | {"track_id": ""} == {"track_id": "", "title": None, "artist": None, "uri": None}  # there is no table of tracks


def test_sounds_of_another_kind_are_refused(tmp_path: Path) -> None:
    def work(run: StageRun) -> None:
        run.write("music_tracks", pa.table({"track_id": ["t0"], "vector": [[1.0]]}))
        run.write("music_users", pa.table({"user_id": [""], "vector": [[1.0]]}))
        run.write("track_features", pa.table({"track_id": ["t0"], "status": ["ok"], "audio": [[1.0, 2.0]]}))
        run.write_file("model/record.json", b'{"mean": 3, "low": 1, "high": 5}')
        run.count(0, 0)

    config = build_music_world(tmp_path / "world")
    run_stage(Workspace(config.workspace), Stage("music", work, writes=world.MUSIC.writes), config, force=True)
    with pytest.raises(TableError, match=r"track_features, column 'audio': .* 2 numbers, but those of the videos have 6"):
        world.publish(config)


@pytest.fixture
def copy(config: Config, tmp_path: Path) -> Path:
    """The published bundle in a folder that a test may spoil."""
    source = Path(locate(Workspace(config.workspace), None)[1])
    folder = tmp_path / "bundle"
    for path in (path for path in source.rglob("*") if path.is_file()):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", [*(f"{name}.arrow" for name in TABLES), "search/vectors.npy"])
def test_a_damaged_file_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    for read in (lambda: Bundle.load(FS, str(copy), "v"), lambda: verify(FS, str(copy))):
        with pytest.raises(BundleError, match=f"{name} is not the file that was published"):
            read()
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: the bundle lacks this file; run `rayrec publish CONFIG`"):
        Bundle.load(FS, str(copy), "v")


def test_a_bundle_of_before_there_was_music_is_read(copy: Path) -> None:
    checksums = json.loads((copy / "checksums.json").read_text())
    for name in TABLES:
        (copy / f"{name}.arrow").unlink()
        del checksums[f"{name}.arrow"]
    for number in (5, 6):
        info = json.loads((copy / "bundle.json").read_text()) | {"format": number}
        (copy / "bundle.json").write_text(json.dumps(info))
        checksums["bundle.json"] = hashlib.sha256((copy / "bundle.json").read_bytes()).hexdigest()
        (copy / "checksums.json").write_text(json.dumps(checksums))
        assert Bundle.load(FS, str(copy), "v").music is None


def test_copies_of_a_store_have_the_music(copy: Path, tmp_path: Path) -> None:
    """As from an object store: whatever is not local is copied to a folder of this machine first."""
    elsewhere = pafs.SubTreeFileSystem(str(copy.parent), FS)
    for copies in (tmp_path / "copies", None):
        music = music_of(Bundle.load(elsewhere, copy.name, "v", copies))
        assert music.has_space
        assert music.tracks.num_rows == 12
    assert len(list((tmp_path / "copies").rglob("music/tracks.arrow"))) == 1


def test_the_ingress_needs_no_torch_for_a_video_of_the_bundle(copy: Path) -> None:
    code = f"""
import sys, pyarrow.fs
import rayrec.serving.http.app
from rayrec.serving.bundle import Bundle
music = Bundle.load(pyarrow.fs.LocalFileSystem(), {str(copy)!r}, "v").music
music.best("u0", music.place_of(1), 3)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


# --- videos that are in no bundle ---


@pytest.fixture(scope="module")
def searcher(config: Config) -> Searcher:
    workspace = Workspace(config.workspace)
    _, folder = locate(workspace, None)
    return Searcher.load(workspace.fs, folder, load(config).items, config.search or Search())


def test_a_video_is_placed_by_its_vectors_where_its_id_places_it(config: Config, searcher: Searcher) -> None:
    bundle = load(config)
    place, by_id = searcher.place({"audio": sound_of(102)}), music_of(bundle).place_of(bundle.item_of[video(2)])
    assert place is not None
    np.testing.assert_allclose(place, by_id, atol=2e-3)  # float16
    np.testing.assert_allclose(searcher.place(video(2)), by_id, atol=2e-3)


def test_a_video_that_was_added_is_placed_where_search_has_it(searcher: Searcher) -> None:
    new = AddedVideo({"video_id": "new", "title": "x"}, features={"audio": np.array(sound_of(3), np.float32)})
    bare = AddedVideo({"video_id": "bare"})
    assert searcher.place("new") is None
    searcher.add(catalog_table([new, bare]), features_table([new, bare]))
    np.testing.assert_allclose(searcher.place("new"), searcher.place({"audio": sound_of(3)}), atol=1e-6)
    assert searcher.place("bare") is None
    again = AddedVideo({"video_id": "new"}, features={"audio": np.array(sound_of(2), np.float32)})
    searcher.add(catalog_table([again]), features_table([again]))
    np.testing.assert_allclose(searcher.place("new"), searcher.place({"audio": sound_of(2)}), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cover": [1.0]}, "vectors.cover: the space of search does not read cover; it reads audio"),
        ({"audio": [1.0, 2.0]}, "vectors.audio: must hold 6 numbers, as features do, not 2"),
    ],
)
def test_vectors_that_the_space_does_not_read_are_named(searcher: Searcher, given: dict[str, list[float]], sentence: str) -> None:
    with pytest.raises(SearchError) as refusal:
        searcher.place(given)
    assert (refusal.value.status, str(refusal.value)) == (422, sentence)


def test_a_video_far_from_all_has_a_place_of_finite_numbers(searcher: Searcher) -> None:
    place = searcher.place({"audio": [1e30, -1e30, 0.0, 0.0, 0.0, 0.0]})
    assert place is not None
    assert np.isfinite(place).all()


def test_what_publish_depends_on_changes_with_the_section_alone(config: Config) -> None:
    assert serving_music.settings(config) == {"music": True}
    assert serving_music.settings(Config()) == {}


def test_below_zero_a_better_fit_makes_no_score_lower() -> None:
    facts = {name: ["a", "b"] for name in FACTS}
    places = {"vector": [[0.0], [0.0]], "space_vector": [[1.0, 0.0], [-1.0, 0.0]]}
    tracks = pa.table(facts | places, schema=TABLES[TRACKS])
    users = pa.table({"user_id": [""], "vector": [[1.0]]}, schema=TABLES[USERS])
    music = Music(tracks, users, mean=-0.8, low=-1, high=1, videos=np.eye(2, dtype=np.float32))
    best = music.best("", np.array([1.0, 0.0]), 2)
    assert best.rows.tolist() == [0, 1]
    assert best.scores == pytest.approx([0.2, 0.0], abs=1e-6)
