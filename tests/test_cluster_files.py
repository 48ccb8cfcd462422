"""cluster.yaml and serve_config.yaml: every key is one that Ray knows, and the names in them are those of our code.

Ray drops unknown keys of a Serve config without a word, so the walk over its schema is done here.
"""

import importlib
import os
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from rayrec.serving.cluster.head import HAPROXY, HAPROXY_SETTINGS

ROOT = Path(__file__).parents[1]
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


def test_every_node_gets_the_token_and_the_environment_before_ray_starts(cluster: dict[str, Any]) -> None:
    setup = "\n".join(cluster["setup_commands"])
    for variable in (
        "RAY_AUTH_MODE=token",
        "RAY_SERVE_ENABLE_HA_PROXY=1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
        f"RAY_SERVE_HAPROXY_BINARY_PATH=$HOME/rayrec/{HAPROXY.relative_to(ROOT)}",
        *(f"{name}={value}" for name, value in HAPROXY_SETTINGS.items()),
    ):
        assert variable in setup.replace('"', "")
    assert os.access(HAPROXY, os.X_OK)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert commands[-1].startswith("unset OMP_NUM_THREADS")
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


# --- serve_config.yaml ----------------------------------------------------------------------------------------------------------


def unknown_keys(value: Any, kind: Any, path: str = "") -> list[str]:
    """The keys in `value`, at any depth, that are no fields of the pydantic models in the annotation `kind`."""
    arguments = get_args(kind)
    if isinstance(value, list) and get_origin(kind) is list:
        return [key for place, item in enumerate(value) for key in unknown_keys(item, arguments[0], f"{path}[{place}]")]
    if get_origin(kind) in (Union, types.UnionType):
        models = [choice for choice in arguments if _is_model(choice) or get_origin(choice) is list]
        return unknown_keys(value, models[0], path) if models else []
    if not isinstance(value, dict) or not _is_model(kind):
        return []
    found = [f"{path}.{key}" for key in value if key not in kind.model_fields]
    for key in value.keys() & kind.model_fields.keys():
        found += unknown_keys(value[key], kind.model_fields[key].annotation, f"{path}.{key}")
    return found


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


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
