"""What is wrong with the data of a workspace is said before any stage works on them."""

import logging
import re
from pathlib import Path

import pytest

from rayrec.config import Config, ConfigError, WorldData, load
from rayrec.data.errors import DataError
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.workspace.versions import Workspace

START = 1_700_000_000_000  # UTC ms


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a catalog of ten videos and a log of sixty impressions, `part` of which says that all are for training."""
    (tmp_path / "catalog.csv").write_text("video_id\n" + "".join(f"v{n}\n" for n in range(10)))
    rows = "".join(f"u{n % 6},v{n % 10},{START + n},{n % 2},train\n" for n in range(60))
    (tmp_path / "log.csv").write_text("user_id,video_id,shown_at,clicked,part\n" + rows)
    return tmp_path


def config_of(files: Path, *settings: str) -> Config:
    dataset = f"dataset={{kind: files, catalog: {files}/catalog.csv, interactions: {files}/log.csv}}"
    return load(None, [f"workspace={files}/workspace", dataset, *settings])


def ingest(config: Config) -> None:
    run_stages([load_stage("ingest")], config)


def test_data_of_another_dataset_are_noticed(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(files)
    ingest(config)
    other = config_of(files, "dataset.click_at_least=1", "comparison.arms={fm: {ranker.model: fm}}")
    problem = "dataset.click_at_least is 1.0, but the tables of the workspace were made with None; run `rayrec ingest CONFIG`"
    with pytest.raises(ConfigError, match=re.escape(f"compare: {problem}")):
        run_stages([load_stage("compare")], other)
    run_stages([load_stage("encode")], config)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    run_stages([load_stage("encode")], other)
    assert f"encode: {problem}" in caplog.text
    run_stages([load_stage("encode")], config.model_copy(update={"dataset": WorldData()}))
    assert "encode: dataset.kind is 'world', but the tables of the workspace were made with 'files'" in caplog.text


def test_a_log_without_impressions_is_noticed(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    (files / "log.csv").write_text("user_id,video_id,shown_at,clicked\n")
    ingest(config_of(files))
    assert f"{files}/log.csv: the log has no impressions, so the stages that learn from it are left out" in caplog.text
    caplog.clear()
    ingest(config_of(files, "dataset.interactions=null"))  # nobody expects one
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_log_that_can_not_be_split_stops_a_run_before_its_long_stages(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    (files / "log.csv").write_text("user_id,video_id,shown_at,clicked\n" + f"u1,v1,{START},1\n" * 60)
    problem = "interactions: 60 rows can't be split by time into training, validation and test, because training would be empty"
    config = config_of(files)
    with pytest.raises(DataError, match=problem):
        run_stages([load_stage(name) for name in ("ingest", "extract", "encode")], config)
    assert Workspace(config.workspace).manifest("extract") is None
    ingest(config)
    assert problem in caplog.text


def test_a_given_split_that_lacks_a_part_is_noticed(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = ("dataset.split_column=part",)
    ingest(config_of(files, *given))
    assert "has all rows in training; validation and test are drawn from those of each user" in caplog.text
    text = (files / "log.csv").read_text()
    (files / "log.csv").write_text(text.replace("train", "validation", 5))
    with pytest.raises(DataError, match="the split that the data set gives has no rows for test; give some"):
        run_stages([load_stage("ingest"), load_stage("encode")], config_of(files, *given))
    (files / "log.csv").write_text(text.replace("train", "test"))
    with pytest.raises(DataError, match="has no rows for training"):
        run_stages([load_stage("ingest"), load_stage("encode")], config_of(files, *given))


def test_popularity_does_not_fade_in_a_log_without_times(files: Path) -> None:
    text = re.sub(r"\d{13},", "", (files / "log.csv").read_text()).replace("shown_at,", "")
    (files / "log.csv").write_text(text)
    config = config_of(files, "ranker.popularity=[7]", "training.epochs=1", "ranker.topics=false", "training.without_topics=false")
    with pytest.raises(DataError, match=r"ranker\.popularity: counts fade with the days, and the log has no times; remove it"):
        run_stages([load_stage("ingest"), load_stage("train")], config)
