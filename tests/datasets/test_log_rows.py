"""Logs as people have them: clicks alone, ratings, seconds watched, parts of a split in a column."""

from collections.abc import Callable
from typing import Any

import pytest

from rayrec.config import Config, ConfigError, FilesData, load
from rayrec.data.errors import DataError
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog, LogFacts
from rayrec.stages import encode
from rayrec.tables import TableError
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

Ingest = Callable[..., Workspace]
Written = Callable[[str, str | bytes], str]

NOW = 1_700_000_000


@pytest.fixture
def made(ingested: Ingest, written: Written) -> Callable[..., Workspace]:
    """Ingests a log from the lines of a CSV file, beside a catalog of videos of 10, 20, ... 90 seconds and one of none."""

    def make(header: str, rows: list[str], **settings: Any) -> Workspace:
        catalog = "video_id,duration_s\n" + "".join(f"v{number},{10 * number + 10}\n" for number in range(9)) + "v9,\n"
        paths = {"catalog": written("catalog.csv", catalog), "interactions": written("log.csv", "\n".join([header, *rows]) + "\n")}
        return ingested(FilesData.model_validate({"kind": "files"} | paths | settings))

    return make


def column(workspace: Workspace, name: str) -> list[Any]:
    return workspace.read("interactions")[name].to_pylist()


def facts_of(workspace: Workspace) -> LogFacts:
    run_stage(workspace, encode.STAGE, Config.model_validate({"workspace": workspace.uri}))
    return EncodedLog.open(workspace.fs, workspace.folder("encode")).facts


def test_a_log_of_clicks_alone(made: Callable[..., Workspace], caplog: pytest.LogCaptureFixture) -> None:
    workspace = made("user_id,video_id,shown_at", [f"u{n % 3},v{n % 9},{NOW + n}" for n in range(60)])
    assert column(workspace, "clicked") == [True] * 60
    assert "log.csv: there is no column 'clicked', so every row counts as a click" in caplog.text
    facts = facts_of(workspace)
    assert (facts.clicks_only, facts.split_by) == (True, "time")


def test_a_log_of_clicks_without_times(made: Callable[..., Workspace], caplog: pytest.LogCaptureFixture) -> None:
    workspace = made("user_id,video_id", [f"u{n % 3},v{n % 9}" for n in range(90)])
    assert "the rows of each user are split at random" in caplog.text
    facts = facts_of(workspace)
    assert (facts.clicks_only, facts.split_by) == (True, "user")


def test_the_times_of_clicks_are_those_of_a_log_of_clicks_alone(made: Callable[..., Workspace]) -> None:
    workspace = made("user_id,video_id,clicked_at", [f"u1,v1,{NOW}"])
    assert [column(workspace, name) for name in ("shown_at", "clicked_at")] == [[NOW * 1000], [NOW * 1000]]
    workspace = made("user_id,video_id,clicked_at,clicked", [f"u1,v1,{NOW},1", "u1,v2,,0"])
    assert column(workspace, "clicked_at") == [None, None]  # they would come after all the times that are drawn


def test_ratings_make_clicks_and_are_kept(made: Callable[..., Workspace]) -> None:
    rows = [f"u1,v{n},{NOW + n},{stars}" for n, stars in enumerate(["5", "3.5", "4", "1"])]
    expected = ([5.0, 3.5, 4.0, 1.0], [True, False, True, False])
    for name, settings in (
        ("rating", {}),
        ("stars", {"interactions_columns": {"clicked": "stars"}}),
        ("stars", {"interactions_columns": {"rating": "stars"}}),
    ):
        workspace = made(f"user_id,video_id,shown_at,{name}", rows, click_at_least=4, **settings)
        assert (column(workspace, "rating"), column(workspace, "clicked")) == expected
    workspace = made("user_id,video_id,shown_at,clicked,rating", [f"{row},1" for row in rows[:1]], click_at_least=4)
    assert (column(workspace, "rating"), column(workspace, "clicked")) == ([1.0], [True])


def test_seconds_that_make_clicks_are_no_ratings(made: Callable[..., Workspace]) -> None:
    columns = {"clicked": "seconds", "watch_s": "seconds"}
    workspace = made("user_id,video_id,shown_at,seconds", [f"u1,v1,{NOW},7.5"], click_at_least=5, interactions_columns=columns)
    assert [column(workspace, name) for name in ("clicked", "watch_s", "rating")] == [[True], [7.5], [None]]


WATCHED = [f"u1,v0,{NOW},4", f"u1,v1,{NOW + 1},10", f"u1,v2,{NOW + 2},14.5", f"u1,v3,{NOW + 3},", f"u1,v9,{NOW + 4},30"]


def test_a_share_of_the_duration_is_a_click(made: Callable[..., Workspace]) -> None:
    workspace = made("user_id,video_id,shown_at,watch_s", [*WATCHED, f"u1,other,{NOW},5"], click_rule={"watch_share": 0.5})
    assert column(workspace, "clicked") == [False, True, False, False]
    assert workspace.rejects("ingest")["reason"].to_pylist() == [
        "video_id: 'other' is not in the catalog",
        "video_id: 'v9' has no duration_s in the catalog, which `dataset.click_rule` needs",
    ]


def test_so_many_seconds_are_a_click(made: Callable[..., Workspace], caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{row},1" for row in WATCHED]
    workspace = made("user_id,video_id,shown_at,watch_s,clicked", rows, click_rule={"watch_s": 10})
    assert column(workspace, "clicked") == [False, True, True, False, True]
    assert "the column 'clicked' is not used, because `dataset.click_rule` says what a click is" in caplog.text


def test_a_column_gives_the_split(made: Callable[..., Workspace]) -> None:
    names = ["train", "Training", "val", "valid", " VALIDATION", "test", "later", ""]
    rows = [f"u{n % 2},v{n},{NOW},{name}" for n, name in enumerate(names)]
    workspace = made("user_id,video_id,shown_at,fold", rows, split_column="fold")
    split = LogPieces.of(workspace.fs, workspace.part_digests("interactions")).split(Config().split)
    videos = column(workspace, "video_id")
    found = [sorted(videos[part]) for part in (split.train, split.validation, split.test)]
    assert found == [["v0", "v1"], ["v2", "v3", "v4"], ["v5"]]
    assert "fold" not in workspace.read("interactions").column_names
    assert workspace.rejects("ingest")["reason"].to_pylist() == [
        "fold: 'later' is none of training, validation, test",
        "fold: '' is none of training, validation, test",
    ]


def test_a_given_split_without_a_test_is_refused(made: Callable[..., Workspace]) -> None:
    workspace = made("user_id,video_id,fold", ["u1,v1,train", "u1,v2,valid"], split_column="fold")
    with pytest.raises(DataError, match=r"the split that the data set gives has no rows for test"):
        facts_of(workspace)


def test_hours_of_a_log_without_times_are_refused(made: Callable[..., Workspace]) -> None:
    workspace = made("user_id,video_id", [f"u{n % 3},v{n % 9}" for n in range(90)])
    config = Config.model_validate({"workspace": workspace.uri, "ranker": {"context_fields": ["hour"]}})
    with pytest.raises(DataError, match="'hour' follows from the times of the log, which has none; remove it"):
        run_stage(workspace, encode.STAGE, config)


@pytest.mark.parametrize(
    ("header", "settings", "sentence"),
    [
        ("user_id,video_id,shown_at,rating", {}, "'rating' but none 'clicked'; set `dataset.click_at_least`"),
        ("user_id,video_id,shown_at,stars", {}, r"no column 'clicked'; if it is 'stars', say so with .*\{clicked: stars\}`"),
        ("user_id,video_id,timestamp,clicked", {}, r"no column 'shown_at'; if it is 'timestamp', .*\{timestamp: timestamp\}`"),
        ("user_id,video_id,shown_a,clicked", {}, "no column 'shown_at'; if it is 'shown_a'"),
        ("user_id,video_id,shown_at", {"click_rule": {"watch_s": 3}}, "dataset.click_rule needs the column 'watch_s'"),
        ("user_id,video_id,fold", {"split_column": "folds"}, "'folds', which is missing; did you mean 'fold'"),
    ],
)
def test_what_is_missing_is_said(made: Callable[..., Workspace], header: str, settings: dict, sentence: str) -> None:
    with pytest.raises(TableError, match=sentence):
        made(header, ["1,2,3,4"[: 2 * header.count(",") + 1]], **settings)


def test_a_column_of_your_own_may_be_named_as_one_of_ours_elsewhere(made: Callable[..., Workspace]) -> None:
    workspace = made("user_id,video_id,shown_at,liked", [f"u1,v1,{NOW},yes"], interactions_columns={"liked": "liked"})
    assert (column(workspace, "clicked"), column(workspace, "liked")) == ([True], ["yes"])


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("{}", "give either watch_share or watch_s"),
        ("{watch_s: 3, watch_share: 0.5}", "give either watch_share or watch_s"),
        ("{watch_s: 0}", "must be more than 0"),
    ],
)
def test_a_rule_is_one_rule(rule: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(None, ["dataset.kind=files", "dataset.catalog=c.csv", f"dataset.click_rule={rule}"])


def test_a_rule_and_a_threshold_are_too_much() -> None:
    with pytest.raises(ConfigError, match="click_rule says what a click is: remove click_at_least"):
        load(None, ["dataset.kind=files", "dataset.catalog=c.csv", "dataset.click_rule.watch_s=3", "dataset.click_at_least=4"])
