"""The stage judges a ranker by simulated people, beside the truth, or by a log that was exported."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.errors import RayrecError
from rayrec.serving.bundle import Bundle, BundleError, locate
from rayrec.serving.recommender import Recommender
from rayrec.serving.state.export import export_events
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.stages import off_policy
from rayrec.stages.pipeline import load_stage, run_stages
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.small_world import rank_by_number
from tests.stages.test_ab_test import SETTINGS, ingest

K = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("off_policy")
    section = {"people": 250, "days": 2, "k": K}
    own: dict[str, Any] = {"workspace": str(folder / "space"), "off_policy": section, "selection": {"explore": 0.4}}
    own["recall"] = {"candidates": 20, "min_exposures": 1000}
    (folder / "small.yaml").write_text(json.dumps({name: value for name, value in SETTINGS.items() if name != "ab_test"} | own))
    config = load(folder / "small.yaml")
    run_stage(Workspace(config.workspace), Stage("ingest", ingest, writes=("catalog", "interactions", "users")), config)
    run_stages([load_stage("train")], config)
    return config


def judged(config: Config, **values: Any) -> dict[str, Any]:
    """The results as JSON; the other files are looked at."""
    config = config.model_copy(update={"off_policy": config.off_policy.model_copy(update=values)})
    workspace = Workspace(config.workspace)
    run_stage(workspace, off_policy.STAGE, config)
    folder = workspace.folder("off_policy")
    assert workspace.read_file(f"{folder}/off_policy.png").startswith(b"\x89PNG")
    facts: dict[str, Any] = json.loads(workspace.read_file(f"{folder}/results.json"))
    table = workspace.read_file(f"{folder}/results.md").decode()
    for name, each in facts["estimates"].items():
        assert f"| {name} | {each['value']:.4f} | {each['low']:.4f} to {each['high']:.4f} |" in table
    return facts


def test_simulated_people_show_the_truth_beside_the_estimates(config: Config) -> None:
    facts = judged(config)
    estimates = facts["estimates"]
    assert list(estimates) == ["as drawn", "unweighted", "IPS", "SNIPS", "doubly robust", "truth", "truth, had it served"]
    assert facts["places"] > 500
    assert facts["matches"] < facts["places"] / 3
    for name in ("IPS", "SNIPS", "doubly robust"):
        assert abs(estimates[name]["value"] - estimates["truth"]["value"]) < 3 * estimates[name]["error"]


@pytest.fixture(scope="module")
def log(config: Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a service with exploration exported."""
    workspace, folder = Workspace(config.workspace), tmp_path_factory.mktemp("log")
    run_stages([load_stage("publish")], config)
    version, place = locate(workspace, None)
    store = SqliteStore(Path(config.workspace) / "state" / "events.db")
    bundle = Bundle.load(workspace.fs, place, version)
    served = Recommender(bundle, store, rank_by_number, config.recall, config.selection, seed=0)
    for number in range(30):
        asyncio.run(served.recommend(f"n{number}", K, []))
    store.close()
    export_events(config, str(folder))
    return str(folder)


def test_an_exported_log_judges_a_published_ranker_and_a_trained_one(config: Config, log: str) -> None:
    version = locate(Workspace(config.workspace), None)[0]
    facts = judged(config, log=log, version=version)
    assert (facts["places"], facts["users"], facts["too_small"]) == (60, 30, True)
    assert "truth" not in facts["estimates"]
    assert judged(config, log=log) == facts  # the same ranker
    with pytest.raises(BundleError, match="holds no bundle 'nothing'"):
        judged(config, log=log, version="nothing")


def test_a_longer_log_is_judged_again(config: Config, log: str, tmp_path: Path) -> None:
    longer = config.model_copy(update={"off_policy": config.off_policy.model_copy(update={"log": log})})
    before = off_policy.sources(Workspace(config.workspace), longer)
    assert before
    (Path(log) / "2030-01-01.parquet").write_bytes(b"x")
    assert off_policy.sources(Workspace(config.workspace), longer) != before
    (Path(log) / "2030-01-01.parquet").unlink()


def test_what_cannot_be_judged_is_refused_at_once(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"off_policy\.log: name the folder that `rayrec events export CONFIG --to FOLDER` fills"):
        off_policy.check(load(None, ["dataset.kind=files", "dataset.catalog=x.csv"]))
    with pytest.raises(ConfigError, match=r"no place would explore; set `selection\.explore`"):
        off_policy.check(config.model_copy(update={"selection": config.selection.model_copy(update={"explore": 0})}))
    with pytest.raises(RayrecError, match=r"holds no exported log"):
        judged(config, log=str(tmp_path))
    established = config.model_copy(update={"recall": config.recall.model_copy(update={"min_exposures": 0})})
    with pytest.raises(RayrecError, match=r"no video was drawn, because none is fresh; raise recall\.min_exposures"):
        judged(established)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("selection.explore=1.5", r"selection\.explore: must be 1 or less"),
        ("selection.explore=-0.1", r"selection\.explore: must be 0 or more"),
        ("off_policy.people=0", r"off_policy\.people: must be 1 or more"),
        ("off_policy.versions=x", r"did you mean 'off_policy\.version'"),
    ],
)
def test_nonsense_in_the_config_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(None, [setting])
