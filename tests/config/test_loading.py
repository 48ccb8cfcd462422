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


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "|",
        ">",
        "*.csv",
        "&all",
        "@home",
        "`x`",
        "%",
        "a: b: c",
        "data/part #1",
        "#1",
        " padded",
        "C:\\data",
        "a\tb",
        "%TAG",
        "2024-01-31",
    ],
)
def test_text_of_an_override_is_taken_as_it_is(text: str) -> None:
    assert load(None, [f"workspace={text}"]).workspace == text


def test_what_an_override_quotes_is_read_as_yaml() -> None:
    assert load(None, ["workspace='a #1'"]).workspace == "a #1"
    assert load(None, ['workspace="1"']).workspace == "1"
    for nothing in ("", "null", "~"):
        assert load(None, [f"features.motion={nothing}"]).features.motion is None


def test_a_file_without_content_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load(tmp_path / "empty.yaml") == load(None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("topics.cluster=5", r"unknown key 'topics.cluster'; did you mean 'topics.clusters'\?"),
        ("servng.port=1", r"unknown key 'servng'; did you mean 'serving'\?"),
        ("features.image.frame=2", r"unknown key 'features.image.frame'; did you mean 'features.image.frames'\?"),
        ("dataset.video=5", r"unknown key 'dataset.video'; did you mean 'dataset.videos'\?"),
        ("serving.port=99999999", "serving.port: must be 65535 or less"),
        ("dataset.kind=mars", "dataset.kind: there is no kind 'mars'; known: files, movielens, slideshow, splits, world, youtube"),
        ("dataset.kind=file", r"dataset.kind: there is no kind 'file'; did you mean 'files'\?"),
        ("training.epochs=ten", r"training.epochs: must be a whole number \(got 'ten'\)"),
        ("ranker.hidden=[8, 0]", r"ranker.hidden.1: must be 1 or more \(got 0\)"),
        ("training.learning_rate=0", r"training.learning_rate: must be more than 0 \(got 0\)"),
        ("tuning.metric=acc", r"tuning.metric: must be 'auc' or 'log_loss' \(got 'acc'\)"),
        ("comparison.seeds=[]", r"comparison.seeds: must not be empty \(got \[\]\)"),
        ("dataset={kind: files, catalog: c.csv, interactions: 5}", "dataset.interactions: must be a list"),
        ("dataset.kind=files", "'dataset.catalog' is missing; add it"),
        ("topics=5", "'topics' is a section, so it holds keys with values, not '5'"),
        ("tuning.space={ranker.dropout: {low: 1, high: 0}}", "tuning.space.ranker.dropout: a span goes from a smaller"),
        ("seed", "should read section.key=value"),
        ("=5", "should read section.key=value"),
        ("seed.of=1", "'seed' holds a value"),
        ("topics..clusters=5", "unknown key 'topics.'"),
        ("ranker.hidden=[8", r"^override ranker.hidden=\[8: the value is not valid YAML .*; put text in quotes"),
        ("ranker.item_fields=[a,b", r"^override ranker.item_fields=\[a,b: the value is not valid YAML"),
        ("ranker.options={a: 1, a: 2}", "the key 'a' is there twice"),
        ("recall.sources={topic:1}", r"^override .*'topic:1' has no space after its colon"),
        ("workspace=!!python/object:os.system {}", "is not valid YAML"),
        ("ranker.context_fields=[hour, device, hour]", "ranker.context_fields: 'hour' is there 2 times"),
        ("ranker.context_fields=[hour, clicked]", "ranker.context_fields: 'clicked' is no context"),
        ("ranker.modalities=[image, image]", "ranker.modalities: 'image' is there 2 times"),
        ("seed=!!int x", "is not valid YAML"),
        (f"seed={'[' * 3000}", "the value is not valid YAML .it is nested too deeply"),
        ("workspace=caf\udce9", "is not text in utf-8, the encoding of this system"),
    ],
)
def test_a_mistake_is_named(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ndataset: {kind: world}\n")
    with pytest.raises(ConfigError, match=message):
        load(path, [override])


def test_an_error_names_the_file_or_the_override_that_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("ranker: {modle: din}\ntraining: {bf16: true}\nsplit: {test: 0.1}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, ["seed=1", "ranker.dropuot=0", "training.epochs=ten", "topics={clusters: 0}"])
    assert str(caught.value).splitlines() == [
        "override topics={clusters: 0}: topics.clusters: must be 1 or more (got 0)",
        f"{path}: unknown key 'ranker.modle'; did you mean 'ranker.model'?",
        "override ranker.dropuot=0: unknown key 'ranker.dropuot'; did you mean 'ranker.dropout'?",
        "override training.epochs=ten: training.epochs: must be a whole number (got 'ten')",
    ]
    with pytest.raises(ConfigError, match=r"^override dataset.kind=mars: dataset.kind: there is no kind 'mars'"):
        load(path, ["dataset.kind=mars"])
    path.write_text("training: {bf16: true}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml with training.epochs=2: training: bf16 and compile are for GPUs"):
        load(path, ["training.epochs=2"])


def test_a_colon_within_a_key_is_no_missing_space() -> None:
    options = load(None, ["ranker.options={'a:b': 1, c:d: '', e: null}"]).ranker.options
    assert options == {"a:b": 1, "c:d": "", "e": None}


def test_a_space_that_is_missing_after_a_colon_is_found_in_files_too(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\nrecall:\n  sources: {topics: 0.5, popular:0.5}\n")
    with pytest.raises(ConfigError, match=r"(?s)'popular:0.5' has no space after its colon.*line 3"):
        load(path)


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
    (tmp_path / "twice.yaml").write_text("seed: 1\nranker: {model: din}\ntraining:\n  epochs: 1\nranker:\n  dropout: 0\n")
    with pytest.raises(
        ConfigError, match=r"(?s)twice.yaml: not valid YAML: the key 'ranker' is there twice, first in line 2.*line 5"
    ):
        load(tmp_path / "twice.yaml")
    (tmp_path / "shared.yaml").write_text("ranker: &r {dropout: 0.5}\n")
    assert load(tmp_path / "shared.yaml").ranker.dropout == 0.5
    (tmp_path / "number.yaml").write_text("workspace: w\nseed: " + "1" * 5000)
    with pytest.raises(ConfigError, match=r"(?s)number.yaml: not valid YAML: Exceeds the limit .*line 2"):
        load(tmp_path / "number.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.yaml: the config file is not text in UTF-8"):
        load(tmp_path / "binary.yaml")
    (tmp_path / "numbers.yaml").write_text("1: 2\n")
    with pytest.raises(ConfigError, match="1: a name must be a string; put it in quotes"):
        load(tmp_path / "numbers.yaml")


def test_kinds_of_data_are_told_apart() -> None:
    config = load(None, ["dataset.kind=files", "dataset.catalog=c.csv", "dataset.interactions=i.csv"])
    assert isinstance(config.dataset, FilesData)


def test_a_mapping_may_take_keys_from_another_and_replace_them(tmp_path: Path) -> None:
    (tmp_path / "merged.yaml").write_text(
        "features: {image: &image {frames: 4, size: 64}, motion: &motion {<<: *image, frames: 8}}\ntopics: {cover_network: null}\n"
        "ranker: {options: {<<: *motion}}\n"
    )
    config = load(tmp_path / "merged.yaml")
    assert config.features.motion is not None
    assert (config.features.motion.frames, config.features.motion.size) == (8, 64)
    assert config.ranker.options == {"frames": 8, "size": 64}
