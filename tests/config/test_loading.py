"""Reading a config: overrides, and errors that say which key is wrong and what to write instead."""

from pathlib import Path

import pytest

from rayrec.config import ConfigError, FilesData, load, with_values

# Every key of rayrec 0.1 that has another name now.
RENAMED = {
    "": {"most_rejects": "max_rejects"},
    "features.text": {"most_tokens": "max_tokens"},
    "topics": {"most_topics": "max_topics", "least_tag_videos": "min_tag_videos", "most_tags": "max_tags"},
    "training": {"most_workers": "max_workers"},
    "tuning": {"least_epochs": "min_epochs"},
    "recall": {"least_exposures": "min_exposures", "least_ctr": "min_ctr"},
    "selection": {"most_per_topic": "max_per_topic", "most_per_author": "max_per_author"},
    "serving": {"most_ranker_replicas": "max_ranker_replicas", "most_k": "max_k"},
}


def test_yaml_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\ntopics:\n  clusters: 5\n")
    config = load(path, ["topics.threshold=0.5", "features.motion=null", "ranker.hidden=[8, 4]", "seed=4"])
    assert (config.seed, config.topics.clusters, config.topics.threshold) == (4, 5, 0.5)
    assert config.features.motion is None
    assert config.ranker.hidden == [8, 4]


def test_a_file_without_content_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load(tmp_path / "empty.yaml") == load(None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("topics.cluster=5", r"unknown key 'topics.cluster'; did you mean 'clusters'\?"),
        ("servng.port=1", r"unknown key 'servng'; did you mean 'serving'\?"),
        ("features.image.frame=2", r"unknown key 'features.image.frame'; did you mean 'frames'\?"),
        ("dataset.video=5", r"unknown key 'dataset.video'; did you mean 'videos'\?"),
        ("serving.port=99999999", "serving.port: .*less than or equal to 65535"),
        ("dataset.kind=mars", "dataset: .*'world', 'movielens', 'files'"),
        ("dataset.kind=files", "'dataset.catalog' is missing; add it"),
        ("topics=5", "'topics' is a section, so it holds keys with values, not '5'"),
        ("tuning.space={ranker.dropout: {low: 1, high: 0}}", "tuning.space.ranker.dropout.span: a span goes from a smaller"),
        ("seed", "should read section.key=value"),
        ("=5", "should read section.key=value"),
        ("seed.of=1", "'seed' holds a value"),
        ("topics..clusters=5", "unknown key 'topics.'"),
        ("ranker.hidden=[8", r"override 'ranker.hidden=\[8': the value is not valid YAML .*; put text in quotes"),
        ("workspace=!!python/object:os.system {}", "is not valid YAML"),
    ],
)
def test_a_mistake_is_named(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ndataset: {kind: world}\n")
    with pytest.raises(ConfigError, match=message):
        load(path, [override])


@pytest.mark.parametrize(
    ("section", "old", "new"), [(section, old, new) for section, names in RENAMED.items() for old, new in names.items()]
)
def test_a_renamed_key_is_named_with_its_new_name(section: str, old: str, new: str) -> None:
    prefix = f"{section}." if section else ""
    if section == "features.text":
        load(None, ["features.text={}"])
    with pytest.raises(ConfigError, match=f"'{prefix}{old}' is now called '{prefix}{new}'; rename it"):
        load(None, [f"{prefix}{old}=1"])
    with pytest.raises(ConfigError, match=f"^trial: '{prefix}{old}' is now called"):
        with_values(load(None), {f"{prefix}{old}": 1}, "trial")


@pytest.mark.parametrize(("section", "new"), [(section, new) for section, names in RENAMED.items() for new in names.values()])
def test_the_new_names_exist(section: str, new: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, [f"{section}.{new}={{nothing: 0}}" if section else f"{new}={{nothing: 0}}"])
    assert "unknown key" not in str(caught.value)


def test_files_that_are_not_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: the config file can't be read \(No such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"can't be read \(Is a directory\)"):
        load(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping of sections, not list"):
        load(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path / "broken.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.yaml: the config file is not text in UTF-8"):
        load(tmp_path / "binary.yaml")
    (tmp_path / "numbers.yaml").write_text("1: 2\n")
    with pytest.raises(ConfigError, match="1: Keys should be strings"):
        load(tmp_path / "numbers.yaml")


def test_kinds_of_data_are_told_apart() -> None:
    config = load(None, ["dataset.kind=files", "dataset.catalog=c.csv", "dataset.interactions=i.csv"])
    assert isinstance(config.dataset, FilesData)
