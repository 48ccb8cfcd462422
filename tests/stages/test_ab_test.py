"""The stage divides people, gives arms to the groups that are most alike, and keeps what each crowd did."""

import json
from typing import Any

import pytest

from rayrec import tables
from rayrec.config import Config, ConfigError, load
from rayrec.datasets.synthetic.world import make
from rayrec.stages import ab_test
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace

ARMS: dict[str, Any] = {
    "popular": {"recall.sources": {"popular": 1.0}, "ranker.topics": False},
    "explore": {"recall.sources": {"popular": 1.0}, "selection.explore": 0.5},
}
SETTINGS = {
    "dataset": {"kind": "world", "videos": 40, "users": 60, "requests": 300, "days": 3, "topics": 8},
    "ranker": {"model": "fm", "embedding_size": 4, "history_length": 5},
    "training": {"epochs": 1, "batch_size": 128},
    "split": {"validation": 0.2, "test": 0.2},
    "recall": {"candidates": 20},
    "ab_test": {"people": 300, "groups": 4, "days": 2, "k": 5, "arms": ARMS},
}


def ingest(run: StageRun) -> None:
    """The tables of the world, without its clips."""
    world = make(run.config.dataset, run.config.seed)  # type: ignore[arg-type]
    run.write("catalog", world.catalog)
    run.write("interactions", world.interactions)
    run.write("users", world.users)
    run.count(1, 1)


def topics(run: StageRun) -> None:
    """Each video has one topic, its number modulo 8."""
    ids = run.read("catalog", ["video_id"])["video_id"].to_pylist()
    columns = {"video_id": ids, "topics": [[number % 8] for number in range(len(ids))], "similarity": [[1.0]] * len(ids)}
    run.write("topics", tables.from_columns("topics", columns))
    run.count(len(ids), len(ids))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("ab")
    (folder / "small.yaml").write_text(json.dumps({"workspace": str(folder / "space"), **SETTINGS}))
    config = load(folder / "small.yaml")
    workspace = Workspace(config.workspace)
    run_stage(workspace, Stage("ingest", ingest, writes=("catalog", "interactions", "users")), config)
    run_stage(workspace, Stage("topics", topics, reads=("catalog",), writes=("topics",)), config)
    run_stages([load_stage("train")], config)
    return config


def never(*arguments: Any) -> None:
    raise AssertionError("this was simulated before")


def with_test(config: Config, **values: Any) -> Config:
    return config.model_copy(update={"ab_test": config.ab_test.model_copy(update=values)})


def found(config: Config) -> dict[str, Any]:
    workspace = Workspace(config.workspace)
    run_stage(workspace, ab_test.STAGE, config)
    folder = workspace.folder("ab_test")
    assert workspace.read_file(f"{folder}/gains.png").startswith(b"\x89PNG")
    page = workspace.read_file(f"{folder}/index.html").decode()
    assert "A/B test on 300 simulated people" in page
    assert "Gains over popular" in page
    facts: dict[str, Any] = json.loads(workspace.read_file(f"{folder}/results.json"))
    table = workspace.read_file(f"{folder}/results.md").decode()
    assert f"| explore | {facts['gains']['explore']['UVD']['gain']:+.2%} (" in table
    return facts


def test_arms_are_compared_and_crowds_are_kept(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ab_test, "CROWD", 150)
    first = found(config)
    assert len(set(first["chosen_groups"])) == 2
    assert set(first["chosen_groups"]) <= {1, 2, 3, 4}
    assert len(first["first_week"]) == 4
    assert list(first["second_week"]) == list(ARMS)
    for measure, gain in first["gains"]["explore"].items():
        assert measure in ("UVD", "UAVD", "AVD", "ART")
        assert gain["low"] <= gain["gain"] <= gain["high"]
    # Another treatment: the first week is not simulated again.
    other = with_test(config, arms={**ARMS, "explore": {"recall.sources": {"topics": 1.0}, "recall.candidates": 5}})
    monkeypatch.setattr(ab_test, "_first_week", never)
    again = found(other)
    assert again["first_week"] == first["first_week"]
    assert again["gains"] != first["gains"]


def test_what_cannot_be_tested_is_refused_at_once(config: Config) -> None:
    for values, sentence in (
        ({"arms": {"one": {}}}, r"ab_test.arms: give 2 to 4 arms"),
        ({"arms": {"a": {}, "b": {"training.epochs": 3}}}, r"ab_test.arms.b: training.epochs can't differ; only recall"),
        ({"people": 10}, r"ab_test.people: 10 are too few for 4 groups"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            ab_test.check(with_test(config, **values))
    files = load(None, ["dataset.kind=files", "dataset.catalog=x.csv"])
    with pytest.raises(ConfigError, match=r"the people are those of `dataset.kind: world`, and this is 'files'"):
        ab_test.check(files)
