"""The music of the synthetic world: files that can be decoded, and ratings that tell what people like."""

from pathlib import Path

import av
import numpy as np
import pytest

from rayrec.config import Config, ConfigError, WorldData, load
from rayrec.datasets.synthetic import world
from rayrec.datasets.synthetic.words import TOPICS
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

SMALL = ["dataset.videos=24", "dataset.users=40", "dataset.requests=90", "dataset.days=3", "dataset.picture=64"]


def config_of(folder: Path, *more: str) -> Config:
    return load(None, [f"workspace={folder}", *SMALL, "music.data={kind: world, tracks: 30, seconds: 1.5, ratings: 20}", *more])


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = config_of(tmp_path_factory.mktemp("music"))
    run_stage(Workspace(config.workspace), load_stage("ingest"), config)
    return config


def test_each_track_is_a_file_of_its_length(ingested: Config) -> None:
    tracks = Workspace(ingested.workspace).read("tracks").to_pylist()
    assert len({each["track_id"] for each in tracks}) == 30
    for each in tracks[:3]:
        with av.open(each["uri"]) as file:
            assert float(file.duration) / av.time_base == pytest.approx(1.5, abs=0.1)
            samples = np.concatenate([frame.to_ndarray().ravel() for frame in file.decode(audio=0)])
        assert np.abs(samples).max() > 0.3
        assert each["title"]
        assert each["artist"]
        assert each["tags"][1] in {topic.sound for topic in TOPICS}


def test_people_rate_what_sounds_like_the_topics_that_they_like(ingested: Config) -> None:
    workspace = Workspace(ingested.workspace)
    assert isinstance(ingested.dataset, WorldData)
    tastes = world.make(ingested.dataset, ingested.seed).tastes
    topic_of = {topic.sound: number for number, topic in enumerate(TOPICS)}
    sounds = {each["track_id"]: topic_of[each["tags"][1]] for each in workspace.read("tracks").to_pylist()}
    ratings = workspace.read("ratings").to_pylist()
    assert len(ratings) == 40 * 20
    assert len({(each["user_id"], each["track_id"]) for each in ratings}) == len(ratings)
    assert {each["rating"] for each in ratings} == {1, 2, 3, 4, 5}
    interest = [tastes.interest[int(each["user_id"][1:]), -1, sounds[each["track_id"]]] for each in ratings]
    assert np.corrcoef(interest, [each["rating"] for each in ratings])[0, 1] > 0.7  # of 1 to 5 points, with noise


def test_the_same_seed_makes_the_same_music_and_leaves_the_world_as_it_is(ingested: Config, tmp_path: Path) -> None:
    again, without = config_of(tmp_path / "again"), load(None, [f"workspace={tmp_path / 'without'}", *SMALL])
    for config in (again, without):
        run_stage(Workspace(config.workspace), load_stage("ingest"), config)
    first, second, third = (Workspace(config.workspace) for config in (ingested, again, without))
    assert first.read("ratings").equals(second.read("ratings"))
    paths = [Path(space.read("tracks")["uri"][7].as_py()) for space in (first, second)]
    assert paths[0] != paths[1]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert third.read_if_there("tracks") is None
    assert first.read("interactions").equals(third.read("interactions"))


def test_other_data_sets_have_no_such_music(tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("video_id\nv1\n")
    data = [f"dataset={{kind: files, catalog: {tmp_path / 'catalog.csv'}}}", "music.data={kind: world}"]
    config = load(None, [f"workspace={tmp_path / 'space'}", *data])
    with pytest.raises(ConfigError, match=r"music\.data\.kind: `world` needs the people of `dataset\.kind: world`"):
        run_stage(Workspace(config.workspace), load_stage("ingest"), config)
