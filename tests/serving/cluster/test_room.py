"""What a machine has no room for is refused before Ray starts; what other work holds is waited for, for a while.

On a cluster, nodes that may come are waited for, and others are not.
"""

import importlib.util
from pathlib import Path

import pytest
import yaml

from rayrec.config import ConfigError, base, load
from rayrec.serving.cluster import room, service
from rayrec.serving.cluster.room import await_room, check_room, check_training, nodes_at_most, places
from rayrec.stages.pipeline import check, load_stage


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four CPUs and one GPU."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(room, "machine_cpus", lambda: 4)
    monkeypatch.setattr(room, "machine_gpus", lambda: 1)


def test_what_fits_is_fine() -> None:
    check_room("training.workers", 4, cpus=1)
    check_room("training.workers", 2, gpus=0.5)
    check_room("serving.recall_replicas", 4, cpus=0.5, also_cpus=2)
    check_training("training", 0, 0)
    check_training("training", 1, 1)


@pytest.mark.parametrize(
    ("stage", "override", "said"),
    [
        ("train", ["training.workers=8"], "training.workers=8 with 1 CPUs each: this machine has 4; ask for fewer"),
        ("train", ["training.workers=2", "training.gpus_per_worker=1"], "training.workers=2 with 1 GPUs each: this machine has 1"),
        ("topics", ["topics.workers=5"], "topics.workers=5 with 1 CPUs each"),
        ("private_public", ["private_public={workers: 5}"], "private_public.workers=5 with 1 CPUs each"),
        ("private_public", [], "the config has no such section"),
        ("search_index", ["search={workers: 5}"], "search.workers=5 with 1 CPUs each"),
        ("search_index", [], "add `search: {}`"),
        ("extract", ["features.models=2", "features.gpus_per_model=1"], "features.models=2 with 1 GPUs each"),
        ("train", ["ranker.model=wide_dep"], "there is no model 'wide_dep'; did you mean 'wide_deep'"),
        ("evaluate", ["recall.sources={topcs: 1}"], "there is no source 'topcs'; did you mean 'topics'"),
        ("tune", [], "tuning.space: it is empty"),
        ("compare", [], "comparison.arms: there are none"),
    ],
)
def test_a_stage_that_can_not_work_says_so_first(stage: str, override: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_stage(stage).check(load(None, override))


def test_all_stages_are_checked_before_the_first_works(tmp_path: object) -> None:
    config = load(None, [f"workspace={tmp_path}/space", "ranker.model=wide_dep"])
    with pytest.raises(ConfigError, match="wide_dep"):
        check([load_stage("ingest"), load_stage("train")], config)


@pytest.mark.parametrize("section", ["training", "topics", "private_public"])
def test_a_gpu_that_no_worker_would_reserve_is_no_silent_cpu(section: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{section}.gpus_per_worker: with workers=0 .* no GPU is reserved; set {section}.workers"
    ):
        check_training(section, 0, 1)


@pytest.mark.parametrize(
    ("stage", "package", "override", "said"),
    [
        (
            "tune",
            "optuna",
            ["tuning.space={ranker.embedding_size: [8, 16]}"],
            r"`rayrec tune` needs the package optuna.*rayrec\[tune\]",
        ),
        (
            "topics",
            "transformers",
            ["topics.title_encoder=bert-base-chinese"],
            r"topics.title_encoder=bert.* transformers.*rayrec\[text\]",
        ),
        ("extract", "transformers", ["features.text={}"], r"features.text needs the package transformers.*rayrec\[text\]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    stage: str, package: str, override: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(None, override)
    load_stage(stage)  # imports what it needs
    found = importlib.util.find_spec
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ConfigError, match=said):
        load_stage(stage).check(config)


def test_a_service_that_lacks_the_redis_package_does_not_start(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(None, [f"workspace={tmp_path}/space", "serving.state=redis://127.0.0.1:1/0"])
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"serving.state: a Redis needs the package redis.*rayrec\[redis\]"):
        service.check(config)


def test_replicas_need_room_too(tmp_path: object) -> None:
    config = load(None, [f"workspace={tmp_path}/space", "serving.recall_replicas=7"])
    with pytest.raises(ConfigError, match=r"recall_replicas=7 with 0.5 CPUs each, and others need 1: this machine has 4"):
        service.check(config)


def test_a_cluster_is_not_judged_by_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_room("training.workers", 800, cpus=1, gpus=8)


def test_a_process_fits_on_one_node_or_on_none() -> None:
    nodes = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0}]
    assert places(nodes, {"GPU": 1}) == 2
    assert places(nodes, {"GPU": 2}) == 0
    assert places(nodes, {"GPU": 0.1}) == 20
    assert places(nodes, {"CPU": 5, "GPU": 0.5}) == 2
    assert places(nodes, {"CPU": 1}) == 32


def test_a_cluster_grows_as_far_as_its_file_says() -> None:
    types = {
        "head": {"resources": {"CPU": 2}},
        "gpu": {"max_workers": 3, "resources": {"CPU": 4, "GPU": 1}},
        "old": {"resources": {}},
    }
    nodes = nodes_at_most({"head_node_type": "head", "available_node_types": types})
    assert (len(nodes), places(nodes, {"GPU": 1}), places(nodes, {"CPU": 1})) == (4, 3, 14)


class Growing:
    """A cluster whose next node comes whenever it is looked at."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.waiting = nodes, 0

    def seen(self) -> list[dict[str, object]]:
        self.waiting += 1
        one = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
        return [one] * min(self.waiting, self.nodes) + [one | {"Alive": False}]


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch, ray_cluster: str, tmp_path: Path) -> Growing:
    """A Ray that pretends to have other nodes, with an autoscaler of which nothing is known."""
    import ray

    cluster = Growing(nodes=4)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    monkeypatch.setattr(ray, "nodes", cluster.seen)
    monkeypatch.setattr(room, "POLL_S", 0.01)
    monkeypatch.setattr(room, "BOOTSTRAP", tmp_path / "ray_bootstrap_config.yaml")
    monkeypatch.setattr(room, "_only_watches", lambda: False)
    monkeypatch.setattr(room, "_refused_groups", lambda: "")
    return cluster


def test_a_stage_waits_for_the_nodes_that_a_cluster_adds(growing: Growing) -> None:
    await_room("topics.workers", 4, gpus=1)
    assert growing.waiting == 4


def test_what_a_cluster_may_never_have_is_said_at_once(growing: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types = {"head": {"resources": {"CPU": 2}}, "gpu": {"max_workers": 4, "resources": {"CPU": 8, "GPU": 1}}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.dump({"head_node_type": "head", "available_node_types": types}))
    said = (
        r"topics.workers=8 with 1 GPUs each: the cluster has room for 1, and with all the nodes that it may add, it has room for 4"
    )
    with pytest.raises(ConfigError, match=said):
        await_room("topics.workers", 8, gpus=1)
    assert growing.waiting == 1


def test_an_autoscaler_that_refuses_is_believed(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse() -> str:
        pending = ray.util.placement_group_table().values()
        return " ".join(f"{group['placement_group_id']}:PACK|PENDING" for group in pending if group["state"] == "PENDING")

    monkeypatch.setattr(room, "_refused_groups", refuse)
    with pytest.raises(ConfigError, match=r"topics.workers=8 .* has room for 1, and no node that it may add would change that"):
        await_room("topics.workers", 8, gpus=1)
    assert {group["state"] for group in ray.util.placement_group_table().values()} <= {"REMOVED"}


def test_nodes_that_never_come_are_not_waited_for_without_end(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GROWTH_S", 0.05)
    with pytest.raises(
        ConfigError, match=r"topics.workers=8 with 2 CPUs and 1 GPUs each: .* room for 4, and no more nodes came in 0 s"
    ):
        await_room("topics.workers", 8, cpus=2, gpus=1)


def test_a_head_without_an_autoscaler_says_that_it_adds_no_nodes(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real Ray of these tests, as a job on a head sees it: with four CPUs and no GPU."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    await_room("training.workers", 4, cpus=1)
    with pytest.raises(ConfigError, match=r"training.workers=2 with 1 GPUs each: the cluster has room for 0, and it adds no nodes"):
        await_room("training.workers", 2, gpus=1)


def test_room_that_other_work_holds_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    free = [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 2.0}]
    monkeypatch.setattr(room.time, "sleep", lambda seconds: free.pop(0))
    monkeypatch.setattr(ray, "available_resources", lambda: free[0])
    await_room("training.workers", 2, cpus=1)
    assert free == [{"CPU": 2.0}]
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    with pytest.raises(ConfigError, match=r"training.workers=3 with 1 CPUs and 0 GPUs each: 2 CPUs and 0 GPUs .* are free"):
        await_room("training.workers", 3, cpus=1)
