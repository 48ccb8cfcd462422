"""Config: defaults, overrides, and errors that say which key and what to write instead."""

import pytest

from rayrec.config import Config, ConfigError, FilesData, dump, load


def test_defaults_survive_a_round_trip():
    assert Config.model_validate(dump(Config())) == Config()


def test_yaml_and_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\ntopics:\n  clusters: 5\n")
    config = load(path, ["topics.threshold=0.5", "features.motion=null", "ranker.hidden=[8, 4]", "seed=4"])
    assert (config.seed, config.topics.clusters, config.topics.threshold) == (4, 5, 0.5)
    assert config.features.motion is None
    assert config.ranker.hidden == [8, 4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("topics.cluster=5", r"unknown key 'topics.cluster'; did you mean 'clusters'\?"),
        ("servng.port=1", r"unknown key 'servng'; did you mean 'serving'\?"),
        ("features.image.frame=2", r"unknown key 'features.image.frame'; did you mean 'frames'\?"),
        ("dataset.video=5", r"unknown key 'dataset.video'; did you mean 'videos'\?"),
        ("serving.port=99999999", "serving.port: .*less than or equal to 65535"),
        ("dataset.kind=mars", "dataset: .*'world', 'movielens', 'files'"),
        ("seed", "should read section.key=value"),
        ("seed.of=1", "'seed' holds a value"),
    ],
)
def test_a_mistake_is_named(override, message, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ndataset: {kind: world}\n")
    with pytest.raises(ConfigError, match=message):
        load(path, [override])


def test_files_that_are_not_configs(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml: the config file can't be read"):
        load(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping of sections, not list"):
        load(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path / "broken.yaml")


def test_kinds_of_data_are_told_apart():
    config = load(None, ["dataset.kind=files", "dataset.catalog=c.csv", "dataset.interactions=i.csv"])
    assert isinstance(config.dataset, FilesData)
