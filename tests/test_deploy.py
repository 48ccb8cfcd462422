"""Dockerfile and deploy/kuberay/: the names, versions and settings in them are those of our code.

Two tests need more than Python: kubectl, and the CRDs of KubeRay. The environment variable KUBERAY_CRDS names the folder of the
latter, which is `crds` in the chart kuberay-operator.
"""

import importlib
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rayrec import __version__
from rayrec.config import load
from rayrec.serving.cluster import logs
from rayrec.serving.cluster.head import HAPROXY, HAPROXY_SETTINGS
from rayrec.serving.cluster.room import places
from rayrec.stages.pipeline import ON_DEMAND, ROAD
from tests.deployments import HEALTH_CHECKS, demands, unknown_keys

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "deploy" / "kuberay"
EXAMPLE = KUBERAY / "example"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
HOME = "/opt/rayrec"  # of the source in the image
IN_NO_CLUSTER = {"benchmarks", "dev", "docs", "keras"}  # extras
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"

Object = dict[str, Any]


def objects_of(folder: Path) -> Iterator[Object]:
    """The objects that a kustomization names, before it changes them."""
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        path = (folder / name).resolve()
        if path.is_dir():
            yield from objects_of(path)
        else:
            for document in yaml.safe_load_all(path.read_text()):
                yield from document.get("items", [document])


def the(kind: str) -> Object:
    """The only object of a kind in the example."""
    (found,) = (each for each in objects_of(EXAMPLE) if each["kind"] == kind)
    return found


def templates(kind: str) -> list[Object]:
    """The templates of the pods of a RayCluster or RayService, the head's first."""
    spec = the(kind)["spec"]
    cluster = spec.get("rayClusterConfig", spec)
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def pods(kind: str) -> list[Object]:
    return [template["spec"] for template in templates(kind)]


def pinned(package: str) -> str:
    (line,) = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith(f"{package}=="))
    return line.partition("==")[2]


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


# --- the image ------------------------------------------------------------------------------------------------------------------


def test_the_image_has_the_pinned_packages_and_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys() - IN_NO_CLUSTER
    assert set(re.findall(r"--extra (\w+)", dockerfile())) == extras
    assert "UV_CONSTRAINT=constraints.txt" in dockerfile()
    assert set(re.findall(r"^FROM python:([\d.]+)-", dockerfile(), flags=re.M)) == {"3.11"}
    assert "uv pip compile pyproject.toml --all-extras --python-version 3.11" in (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"--tag rayrec-\w+:(\S+)", dockerfile())) == {project["version"]}


def test_the_image_is_not_root_and_docker_gets_what_it_copies() -> None:
    assert re.findall(r"^USER (\S+)", dockerfile(), flags=re.M) == ["1000:1000"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {name for names in re.findall(r"^COPY (.+) \S+$", dockerfile(), flags=re.M) for name in names.split()}
    assert "*" in ignored
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


# --- what is in the manifests ---------------------------------------------------------------------------------------------------


def test_images_and_versions_are_ours() -> None:
    images = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())["images"]
    assert {image["newTag"] for image in images} == {__version__}
    used = {container["image"] for kind in ("RayCluster", "RayService") for pod in pods(kind) for container in pod["containers"]}
    assert used == {image["name"] for image in images} == set(re.findall(r"--tag (rayrec-\w+):", dockerfile()))
    versions = {the("RayCluster")["spec"]["rayVersion"], the("RayService")["spec"]["rayClusterConfig"]["rayVersion"]}
    assert versions == {pinned("ray")}


def test_each_stage_has_its_job() -> None:
    found = {}
    for job in objects_of(KUBERAY / "jobs"):
        stage = job["metadata"]["name"].replace("-", "_")
        python, script, config = job["spec"]["entrypoint"].split()
        path = ROOT / Path(script).relative_to(HOME)
        assert (python, config) == ("python", "/etc/rayrec/config.yaml")
        assert f'main(["{stage}", *sys.argv[1:]])' in path.read_text()
        assert job["metadata"]["labels"][COMPONENT] == job["metadata"]["name"]
        found[stage] = path.name
    assert found.keys() == {*ROAD, *ON_DEMAND} - {"topic_report"}  # a report for people; no stage reads it
    assert set(found.values()) == {path.name for path in (ROOT / "jobs").glob("*.py")}
    shared = yaml.safe_load((KUBERAY / "jobs" / "every_stage.yaml").read_text())["spec"]
    assert shared["clusterSelector"] == {"ray.io/cluster": the("RayCluster")["metadata"]["name"]}
    assert yaml.safe_load(shared["runtimeEnvYAML"])["env_vars"] == _runtime_env()["env_vars"]


def _runtime_env() -> Object:
    return yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())


def test_the_names_of_services_do_not_collide() -> None:
    """KubeRay gives the head of a RayCluster, and that of a RayService, a Service NAME-head-svc."""
    names = [f"{the(kind)['metadata']['name']}-head-svc" for kind in ("RayCluster", "RayService")]
    names += [the("RayService")["spec"]["serveService"]["metadata"]["name"], the("Service")["metadata"]["name"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
def test_every_node_has_the_environment_before_ray_starts(kind: str) -> None:
    (environment,) = (each for each in objects_of(EXAMPLE) if each["metadata"]["name"] == "rayrec-environment")
    assert environment["data"] == {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": f"{HOME}/{HAPROXY.relative_to(ROOT)}",
        **HAPROXY_SETTINGS,
        **HEALTH_CHECKS,
        **logs.SETTINGS,
    }
    assert re.findall(r"^WORKDIR (\S+)", dockerfile(), flags=re.M) == [HOME]
    spec = the(kind)["spec"]
    assert spec.get("rayClusterConfig", spec)["authOptions"] == {"mode": "token", "secretName": "rayrec"}
    for pod in pods(kind):
        (container,) = pod["containers"]
        assert {"configMapRef": {"name": "rayrec-environment"}} in container["envFrom"]
        secrets = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
        assert secrets == {
            "RAYREC_API_KEYS": {"name": "rayrec", "key": "api_keys"},
            "RAYREC_REDIS_PASSWORD": {"name": "rayrec", "key": "redis_password"},
        }
        assert {"name": "config", "mountPath": "/etc/rayrec", "readOnly": True} in container["volumeMounts"]


def test_no_file_holds_a_secret_and_the_documentation_makes_them_all() -> None:
    assert not [each for each in objects_of(EXAMPLE) if each["kind"] == "Secret"]
    used = set(
        re.findall(r"secretKeyRef: { name: rayrec, key: (\w+) }", "".join(path.read_text() for path in KUBERAY.rglob("*.yaml")))
    )
    made = set(re.findall(r"--from-literal=(\w+)=", (ROOT / "docs" / "operations.md").read_text()))
    assert made == used | {"auth_token"}  # which KubeRay itself reads


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
def test_pods_are_not_root_and_are_probed(kind: str) -> None:
    for pod in pods(kind):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000  # the user of the Dockerfile
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert container["resources"]["limits"] == container["resources"]["requests"]  # else Ray takes the limits as what it has


def test_the_service_leads_to_pods_that_answer_and_a_drain_takes_one_at_a_time() -> None:
    serve = yaml.safe_load(the("RayService")["spec"]["serveConfigV2"])
    port = serve["http_options"]["port"]
    assert [each["targetPort"] for each in the("RayService")["spec"]["serveService"]["spec"]["ports"]] == [port]
    _, worker = pods("RayService")
    assert worker["containers"][0]["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": port}
    labels = [template["metadata"]["labels"] for template in templates("RayService")]
    assert labels == [the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]] * 2
    (policy,) = (each for each in objects_of(EXAMPLE) if each["metadata"]["name"] == "rayrec-api")
    assert policy["spec"]["podSelector"]["matchLabels"] == labels[0]
    assert [rule["ports"] for rule in policy["spec"]["ingress"]] == [[{"port": port}]]


def test_ray_knows_every_key_of_the_serve_config_and_it_fits_our_application() -> None:
    from ray.serve._private.build_app import build_app
    from ray.serve.schema import ServeDeploySchema

    serve = yaml.safe_load(the("RayService")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(serve)
    assert unknown_keys(serve, ServeDeploySchema) == []
    assert serve["http_options"]["host"] == "0.0.0.0"  # else no Service reaches it; callers need one of the keys
    (application,) = serve["applications"]
    assert application["args"] == {"config": "/etc/rayrec/config.yaml"}
    module, builder = application["import_path"].split(":")
    built = getattr(importlib.import_module(module), builder)({"config": str(EXAMPLE / "config.yaml")})
    deployments = {each.name: each for each in build_app(built, name="rayrec").deployments}
    assert "resources" not in deployments["TopicRecall"].ray_actor_options  # on any node, since Redis keeps the events


@pytest.mark.parametrize("config", [EXAMPLE / "config.yaml", ROOT / "configs" / "kuaibao.yaml"], ids=["example", "kuaibao"])
def test_the_cluster_offers_what_a_config_asks(config: Path) -> None:
    nodes = []
    for group in the("RayCluster")["spec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        nodes += [{"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}] * group["maxReplicas"]
    for key, count, asked in demands(load(config)):
        if not key.startswith("serving"):
            assert places(nodes, asked) >= count, key
    (group,) = the("RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    cpus = float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) * group["maxReplicas"]
    serving = load(config).serving
    assert cpus >= (serving.max_ranker_replicas or serving.ranker_replicas) + 0.5 * serving.recall_replicas


def test_redis_is_set_as_our_store_demands() -> None:
    redis = pytest.importorskip("rayrec.serving.state.redis", reason="needs `pip install rayrec[redis]`")
    (container,) = the("StatefulSet")["spec"]["template"]["spec"]["containers"]
    for name, value in redis.DURABLE_SETTINGS.items():
        assert f"--{name} {value}" in container["args"][0]
    state = load(EXAMPLE / "config.yaml").serving.state
    assert state == "redis://redis:6379/1"
    assert the("RayService")["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"


# --- what needs more than Python ------------------------------------------------------------------------------------------------


def rendered(folder: Path) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize in it, is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, LOADER))


def test_kustomize_renders_the_example() -> None:
    found = [*rendered(EXAMPLE), *rendered(EXAMPLE / "jobs")]
    assert {each["metadata"].get("namespace") for each in found} == {"rayrec"}
    assert all(each["metadata"]["labels"][COMPONENT] for each in found)
    ours = [each for each in found if each["apiVersion"].startswith("ray.io/")]
    assert {each["metadata"]["labels"][NAME] for each in ours} == {"rayrec"}
    images = re.findall(r"'image': '(.*?)'", str(ours))
    assert set(images) == {f"registry.example.com/rayrec-{variant}:{__version__}" for variant in ("cpu", "gpu")}
    jobs = [each for each in ours if each["kind"] == "RayJob"]
    assert {each["spec"]["submissionMode"] for each in jobs} == {"HTTPMode"}
    (config,) = (each for each in found if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "rayrec")
    assert config["data"]["config.yaml"] == (EXAMPLE / "config.yaml").read_text()


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder with the CRDs of KubeRay")
def test_kuberay_knows_every_key() -> None:
    schemas = {}
    for path in Path(os.environ["KUBERAY_CRDS"]).glob("ray.io_*.yaml"):
        crd = yaml.load(path.read_text(), LOADER)["spec"]
        for version in crd["versions"]:
            schemas[f"{crd['group']}/{version['name']}", crd["names"]["kind"]] = _strict(version["schema"]["openAPIV3Schema"])
    found = [each for each in [*rendered(EXAMPLE), *rendered(EXAMPLE / "jobs")] if each["apiVersion"].startswith("ray.io/")]
    assert len(found) == 12
    for each in found:
        validator = jsonschema.Draft7Validator(schemas[each["apiVersion"], each["kind"]])
        assert [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(each)] == []


def _strict(schema: Any) -> Any:
    """A schema of a CRD as a JSON schema that refuses the keys which Kubernetes would drop without a word."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    if "properties" in schema:
        found["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = schema.get("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    if found == {"type": "object"}:  # metadata, which has a schema of its own
        return {}
    return found
