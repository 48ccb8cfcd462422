"""Each run of an arm is kept, and a run that fails does not stop the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.data.context import DAY_MS
from rayrec.stages.replay import STAGE as REPLAY
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.training.small_log import GOALS, catalog, interactions, with_labels

ARMS: dict[str, Any] = {"fm": {"ranker.model": "fm"}, "wild": {"ranker.model": "deepfm", "training.learning_rate": 1e30}}
SETTINGS = {
    "ranker": {"embedding_size": 4, "hidden": [8], "history_length": 5},
    "training": {"epochs": 1, "batch_size": 128},
    "replay": {"arms": ARMS, "seeds": [1, 2], "days": 2},
}


def ingest(rows: int) -> Stage:
    """A stage that writes a log of three days."""

    def write(run: StageRun) -> None:
        run.write("catalog", catalog())
        at = 20_000 * DAY_MS + np.arange(rows) * (DAY_MS * 3 // rows)
        run.write("interactions", with_labels(interactions(rows).set_column(2, "shown_at", pa.array(at))))
        run.count(rows, rows)

    return Stage("ingest", write, writes=("catalog", "interactions"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "small.yaml").write_text(json.dumps({"workspace": str(tmp_path / "space"), **SETTINGS}))
    config = load(tmp_path / "small.yaml")
    run_stage(Workspace(config.workspace), ingest(1500), config)
    return config


def replayed(config: Config) -> tuple[list[dict[str, Any]], str]:
    workspace = Workspace(config.workspace)
    run_stage(workspace, REPLAY, config)
    folder = workspace.folder("replay")
    assert workspace.read_file(f"{folder}/replay.png").startswith(b"\x89PNG")
    return json.loads(workspace.read_file(f"{folder}/results.json")), workspace.read_file(f"{folder}/results.md").decode()


def test_arms_are_replayed_and_shown(config: Config) -> None:
    runs, table = replayed(config)
    assert [(run["arm"], run["seed"], len(run["days"])) for run in runs] == [
        ("fm", 1, 2),
        ("fm", 2, 2),
        ("wild", 1, 0),
        ("wild", 2, 0),
    ]
    heading, _, row, *_ = table.splitlines()
    assert heading == "| | AUC 2024-10-05 | AUC 2024-10-06 | AUC | GAUC | log loss |"
    cells = [cell.strip(" *") for cell in row.split("|")[1:-1]]
    days = [[day["auc"] for day in run["days"]] for run in runs[:2]]
    assert cells[:3] == ["fm", *(f"{value:.4f}"[1:] for value in np.mean(days, axis=0))]
    assert cells[3].replace("*", "").split(" ± ") == [
        f"{np.mean(days):.4f}"[1:],
        f"{np.std(np.mean(days, axis=1), ddof=1):.4f}"[1:],
    ]
    assert "- wild, seed 1: training diverged" in table
    # Another arm is replayed alone, and the others' runs are taken over.
    more = config.replay.model_copy(update={"arms": {"lr": {"ranker.model": "lr"}, **ARMS}, "concurrent": 1})
    again, _ = replayed(config.model_copy(update={"replay": more}))
    assert again[2:4] == runs[:2]


def test_a_ranker_with_goals_is_replayed_and_judged_by_its_clicks(config: Config) -> None:
    """The click alone, named as a goal, is learned from the same labels as without goals."""
    goals = {"goals": {"ranker.goals": GOALS}, "click": {"ranker.goals.click": "clicked"}, "plain": {}}
    arms: dict[str, Any] = {name: {"ranker.model": "fm"} | values for name, values in goals.items()}
    replay = config.replay.model_copy(update={"arms": arms, "seeds": [1]})
    training = config.training.model_copy(update={"epochs": 3, "learning_rate": 0.02})
    run_stage(Workspace(config.workspace), ingest(6000), config, force=True)
    runs, _ = replayed(config.model_copy(update={"replay": replay, "training": training}))
    found = {run["arm"]: [day["auc"] for day in run["days"]] for run in runs}
    assert min(found["goals"]) > 0.6
    assert min(found["plain"]) > 0.6
    assert found["click"] == pytest.approx(found["plain"], abs=0.03)


def test_what_cannot_be_replayed_is_refused_at_once(config: Config) -> None:
    none = config.model_copy(update={"replay": config.replay.model_copy(update={"arms": {}})})
    with pytest.raises(ConfigError, match=r"replay.arms: there are none"):
        replayed(none)
    unknown = config.replay.model_copy(update={"arms": {"x": {"ranker.model": "fmm"}}})
    with pytest.raises(ConfigError, match=r"replay.arms.x: .*no model 'fmm'"):
        replayed(config.model_copy(update={"replay": unknown}))
