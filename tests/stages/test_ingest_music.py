"""Tracks and ratings: every good row goes on, each bad one is in `rejects` with its reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.stages.pipeline import load_stage
from rayrec.tables import TableError
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

Written = Callable[[str, str | bytes], str]
TRACKS = "track_id,name,tags,uri,artist,mood\nt1,One,a|b,one.ogg,Ann,calm\nt2,Two,,/sounds/two.ogg,,loud\nt2,again,,,,\n,lost,,,,\n"
RATINGS = "user_id,track_id,rating,rated_at\nu1,t1,4.5,1700000001000\nu2,t2,1,1700000002000\nu1,t1,2,1700000009000\n"
BAD = "u1,t9,3,1700000003000\nu1,t2,7,1700000003000\nu1,t2,nan,1700000003000\nu2,t1,,1700000003000\nu2,t1,good,1700000003000\n"


@pytest.fixture
def ingest(tmp_path: Path, written: Written) -> Callable[..., Workspace]:
    def run(tracks: str = TRACKS, ratings: str = RATINGS, **data: object) -> Workspace:
        paths = {"tracks": written("music/tracks.csv", tracks), "ratings": written("music/ratings.csv", ratings)}
        dataset = {"kind": "files", "catalog": written("data/catalog.csv", "video_id\nv1\n")}
        music = {"data": {"kind": "files", "tracks_columns": {"title": "name"}} | paths | data}
        values = {"workspace": str(tmp_path / "workspace"), "max_rejects": 0.9, "dataset": dataset, "music": music}
        config = Config.model_validate(values)
        run_stage(workspace := Workspace(config.workspace), load_stage("ingest"), config)
        return workspace

    return run


def reasons(workspace: Workspace) -> dict[tuple[str, int], str]:
    """By file and row of data from 0; the header of each file is row 1."""
    return {(Path(row["source"]).name, row["row"] - 2): row["reason"] for row in workspace.rejects("ingest").to_pylist()}


def test_tracks_keep_their_columns_and_ratings_their_times(ingest: Callable[..., Workspace], tmp_path: Path) -> None:
    workspace = ingest()
    tracks = workspace.read("tracks").to_pylist()
    assert [(row["track_id"], row["title"], row["tags"], row["artist"], row["mood"]) for row in tracks] == [
        ("t1", "One", ["a", "b"], "Ann", "calm"),
        ("t2", "Two", None, None, "loud"),
    ]
    assert tracks[0]["uri"] == f"{Path(workspace.rejects('ingest')['source'][0].as_py()).parent}/one.ogg"
    assert tracks[1]["uri"] == "/sounds/two.ogg"
    assert reasons(workspace) == {
        ("tracks.csv", 2): "track_id: 't2' repeats the key (track_id) of an earlier row",
        ("tracks.csv", 3): "track_id is empty",
    }
    # Nothing says which of two ratings counts before the model is fitted.
    ratings = [(row["user_id"], row["track_id"], row["rating"]) for row in workspace.read("ratings").to_pylist()]
    assert ratings == [("u1", "t1", 4.5), ("u2", "t2", 1.0), ("u1", "t1", 2.0)]


def test_a_bad_rating_is_rejected_with_its_reason(ingest: Callable[..., Workspace]) -> None:
    workspace = ingest(ratings=RATINGS + BAD, rating_range=[1, 5])
    assert workspace.rows("ratings") == 3
    found = {row: reason for (file, row), reason in reasons(workspace).items() if file == "ratings.csv"}
    assert found == {
        3: "track_id: 't9' is not in the tracks",
        4: "rating: 7 is not between 1 and 5",
        5: "rating: 'nan' is not a finite number",
        6: "rating is empty",
        7: "rating: 'good' is not a number",
    }


def test_without_a_range_every_number_is_a_rating(ingest: Callable[..., Workspace]) -> None:
    assert 7.0 in ingest(ratings=RATINGS + BAD).read("ratings")["rating"].to_pylist()


def test_a_missing_column_is_named_with_the_key_that_mends_it(ingest: Callable[..., Workspace]) -> None:
    with pytest.raises(TableError, match=r"no column 'rating'.*`music\.data\.ratings_columns: \{rating: \.\.\.\}`"):
        ingest(ratings="user_id,track_id,stars\nu1,t1,4\n")
    with pytest.raises(TableError, match=r"music\.data\.tracks_columns maps 'title' to the column 'name', which is missing"):
        ingest(tracks="track_id,title\nt1,One\n")


def test_music_without_a_good_rating_is_an_error(ingest: Callable[..., Workspace]) -> None:
    with pytest.raises(TableError, match=r"music.data: no row is left in the table ratings \(1 were read\)"):
        ingest(ratings="user_id,track_id,rating\nu1,t9,3\n")


def test_a_uri_must_stay_below_the_media_root_where_there_is_one(ingest: Callable[..., Workspace]) -> None:
    found = reasons(ingest(media_root="/sounds"))
    assert "is absolute; with `media_root` set (/sounds)" in found["tracks.csv", 1]


def test_the_config_for_data_of_ones_own_is_valid() -> None:
    assert load(Path(__file__).parents[2] / "configs" / "music.yaml").music is not None


def test_a_range_must_be_in_order() -> None:
    with pytest.raises(ConfigError, match="rating_range is the lowest rating and then the highest"):
        load(None, ["music={data: {kind: files, tracks: t.csv, ratings: r.csv, rating_range: [5, 1]}}"])


def test_films_of_movielens_take_the_place_of_tracks(tmp_path: Path, written: Written) -> None:
    genres = "|".join("1" if number in (5, 8) else "0" for number in range(19))
    folder = Path(written("ml/u.item", f"1|Usual Suspects, The (1995)|14-Aug-1995||http://x|{genres}\n".encode("latin1"))).parent
    written("ml/u.data", "7\t1\t4\t881250949\n7\t2\t4\t881250949\n")
    written("ml/u.user", "7|24|M|technician|85711\n")
    values = {"workspace": str(tmp_path / "w"), "max_rejects": 0.9, "dataset": {"kind": "movielens", "path": str(folder)}}
    config = Config.model_validate(values | {"music": {"data": {"kind": "movielens", "path": str(folder)}}})
    run_stage(workspace := Workspace(config.workspace), load_stage("ingest"), config)
    assert workspace.read("tracks").to_pylist() == [
        {"track_id": "1", "uri": None, "title": "The Usual Suspects", "tags": ["Comedy", "Drama"], "artist": None}
    ]
    assert workspace.read("ratings").to_pylist() == [{"user_id": "7", "track_id": "1", "rating": 4.0, "rated_at": 881_250_949_000}]
