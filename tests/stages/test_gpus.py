"""A stage that asks for GPUs on a cluster that has none, and adds none, says so before it works. It does not wait for ever."""

from collections.abc import Callable

import pytest

from rayrec.config import Config, ConfigError, Features, load
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.training.small_log import ingest


@pytest.fixture
def config(tmp_path: object, ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A workspace with a small log, for a job on the cluster of the test run."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    config = load(None, [f"workspace={tmp_path}/space", "ranker.embedding_size=4", "ranker.hidden=[8]"])
    run_stage(Workspace(config.workspace), ingest(300), config)
    return config


@pytest.mark.parametrize(
    ("stage", "overrides", "said"),
    [
        ("train", ["training.workers=2", "training.gpus_per_worker=1"], "training.workers=2 with 1 GPUs each"),
        ("train", ["training.workers=40", "encoding.shards=40"], "workers=40 with 1 CPUs each: the cluster has room for 4"),
        ("topics", ["topics.workers=2", "topics.gpus_per_worker=0.5"], "topics.workers=2 with 0.5 GPUs each"),
        ("tune", ["training.gpus_per_worker=1", "tuning.space={ranker.embedding_size: [4, 8]}"], "tuning.concurrent=1 with 1 GPUs"),
        (
            "compare",
            ["training.gpus_per_worker=1", "comparison.arms={fm: {ranker.model: fm}}"],
            "comparison: processes=1 with 1 GPUs",
        ),
    ],
)
def test_gpus_that_never_come_are_not_waited_for(config: Config, stage: str, overrides: list[str], said: str) -> None:
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    asking = load(None, [f"workspace={config.workspace}", "ranker.embedding_size=4", "ranker.hidden=[8]", *overrides])
    with pytest.raises(ConfigError, match=said) as refusal:
        run_stage(Workspace(config.workspace), load_stage(stage), asking)
    assert "it adds no nodes" in str(refusal.value)


def test_extraction_does_not_wait_either(
    catalog_of: Callable[..., tuple[Workspace, Config]], small: Features, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    workspace, config = catalog_of({"a": __file__}, features=small.model_copy(update={"gpus_per_model": 1.0}))
    with pytest.raises(
        ConfigError, match=r"features.models=\d+ with 1 GPUs each: the cluster has room for 0, and it adds no nodes"
    ):
        run_stage(workspace, load_stage("extract"), config)
