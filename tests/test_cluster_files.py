"""cluster.yaml and serve_config.yaml: every key is one that Ray knows, and the names in them are those of our code."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayrec.config import load
from rayrec.serving.cluster import logs
from rayrec.serving.cluster.head import HAPROXY, HAPROXY_SETTINGS
from rayrec.serving.cluster.room import nodes_at_most, places
from tests.deployments import HEALTH_CHECKS, demands, unknown_keys

ROOT = Path(__file__).parents[1]
# What AWS says of the types of machine in cluster.yaml.
INSTANCES = {"m7i.2xlarge": {"CPU": 8}, "c7i.4xlarge": {"CPU": 16}, "g6.2xlarge": {"CPU": 8, "GPU": 1}}
CLOUD, OWN, EVERYWHERE = "# --- in the AWS cloud", "# --- on machines of your own", "# --- everywhere"


def cluster_yaml(on_own_machines: bool) -> dict[str, Any]:
    """cluster.yaml as it stands, or with the commented part in the place of the cloud's."""
    text = (ROOT / "cluster.yaml").read_text()
    if on_own_machines:
        before, rest = text.split(CLOUD)
        own, everywhere = rest.split(OWN)[1].split(EVERYWHERE)
        lines = [line.removeprefix("#").removeprefix(" ") for line in own.splitlines()[1:]]
        text = "\n".join([before, *lines, "#" + everywhere])
    return yaml.safe_load(text)


@pytest.fixture(params=[False, True], ids=["aws", "own machines"])
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return cluster_yaml(request.param)


def test_ray_accepts_the_cluster(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)  # with Ray's defaults, as `ray up` does
    validate_config(prepared)  # Ray's autoscaler/ray-schema.json


def test_the_cloud_costs_nothing_but_its_head_when_idle() -> None:
    node_types = cluster_yaml(on_own_machines=False)["available_node_types"]
    assert {name: spec["min_workers"] for name, spec in node_types.items() if name != "head"} == {"decoder": 0, "gpu": 0}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_the_cloud_offers_what_each_config_asks(name: str) -> None:
    cluster = cluster_yaml(on_own_machines=False)
    for spec in cluster["available_node_types"].values():
        spec["resources"] = INSTANCES[spec["node_config"]["InstanceType"]]  # as Ray fills them in
    nodes = nodes_at_most(cluster)
    assert len(nodes) == cluster["max_workers"] + 1
    for key, count, asked in demands(load(ROOT / "configs" / name)):
        assert places(nodes, asked) >= count, key


def test_every_node_has_the_extras_that_stages_need(cluster: dict[str, Any]) -> None:
    assert "make -C ~/rayrec install EXTRAS=[mlflow,redis,search,text,tune,weights]" in cluster["setup_commands"]


def test_every_node_gets_the_token_and_the_environment_before_ray_starts(cluster: dict[str, Any]) -> None:
    setup = "\n".join(cluster["setup_commands"])
    for variable in (
        "RAY_AUTH_MODE=token",
        "RAY_SERVE_ENABLE_HA_PROXY=1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
        f"RAY_SERVE_HAPROXY_BINARY_PATH=$HOME/rayrec/{HAPROXY.relative_to(ROOT)}",
        *(f"{name}={value}" for name, value in (HAPROXY_SETTINGS | logs.SETTINGS | HEALTH_CHECKS).items()),
    ):
        assert variable in setup.replace('"', "")
    assert os.access(HAPROXY, os.X_OK)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert commands[-1].startswith("unset OMP_NUM_THREADS")
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


# --- serve_config.yaml ----------------------------------------------------------------------------------------------------------


def serve_yaml() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text())


def test_ray_knows_every_key_of_the_serve_config() -> None:
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(serve_yaml())
    assert unknown_keys(serve_yaml(), ServeDeploySchema) == []


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"http_options": {}}, ".http_options"),
        ({"applications": [{}]}, ".applications[0]"),
        ({"applications": [{"deployments": [{}, {}]}]}, ".applications[0].deployments[1]"),
        ({"applications": [{"deployments": [{"autoscaling_config": {}}]}]}, ".applications[0].deployments[0].autoscaling_config"),
        ({"applications": [{"deployments": [{"ray_actor_options": {}}]}]}, ".applications[0].deployments[0].ray_actor_options"),
    ],
)
def test_a_key_that_ray_would_drop_is_found(section: dict[str, Any], place: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    innermost: Any = section
    while innermost:
        innermost = innermost[-1] if isinstance(innermost, list) else next(iter(innermost.values()))
    innermost["nonsense"] = 1
    assert unknown_keys(section, ServeDeploySchema) == [f"{place}.nonsense"]


def test_the_service_is_not_open_to_the_network() -> None:
    assert serve_yaml()["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(("state", "on_the_head"), [("/var/lib/rayrec/events.db", True), ("redis://db:6379/0", False)])
def test_the_serve_config_fits_our_application(state: str, on_the_head: bool) -> None:
    from ray.serve._private.build_app import build_app

    (application,) = serve_yaml()["applications"]
    application["args"]["config"]["serving"]["state"] = state
    module, builder = application["import_path"].split(":")
    built = build_app(getattr(importlib.import_module(module), builder)(application["args"]), name=application["name"])
    assert built.ingress_deployment_name == "TopicRecall"
    deployments = {deployment.name: deployment for deployment in built.deployments}
    assert ("node:__internal_head__" in deployments["TopicRecall"].ray_actor_options.get("resources", {})) == on_the_head
    scaling = deployments["NeuralRanker"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
