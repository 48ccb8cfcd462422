"""Starts, finds and stops the local Ray head of the pipeline and the service, and deploys the service on it.

The head stays up after the command that started it has ended. `cluster.json` in the workspace says where it is, and `stop` ends its
processes and no others. Only the service may listen elsewhere than on the loopback, if `serving.host` says so. `current_rollout`,
`apply_rollout` and the reports talk to the Ray that `connect` connects to: the local head, or the cluster that RAY_ADDRESS names.
"""

import contextlib
import copy
import errno
import logging
import os
import time
from pathlib import Path
from typing import Any, cast

import httpx

from rayrec.config import Config, Serving, dump
from rayrec.errors import RayrecError
from rayrec.recall import sources
from rayrec.serving.bundle import BundleError, locate, model_of, verify
from rayrec.serving.cluster import processes
from rayrec.serving.cluster.connection import check_credentials, connect, end_remains, running, started
from rayrec.serving.cluster.head import LOOPBACK, Address, ClusterError, bypass_proxies, max_connections, use_token
from rayrec.serving.cluster.room import check_room
from rayrec.serving.http import auth
from rayrec.serving.media_roots import missing_folders
from rayrec.serving.rollout.arms import STABLE, RankerReport, Report, Rollout, verdict
from rayrec.serving.state.opening import check_installed, is_redis, state_path
from rayrec.workspace.versions import Workspace

DEPLOY_TIMEOUT_S = 180
ROLLOUT_TIMEOUT_S = 300
REPORT_TIMEOUT_S = 30
APPLICATION = "rayrec"
RECALL, RANKER, INTAKE = "TopicRecall", "NeuralRanker", "VideoIntake"
SWAP_LOCK = "serving/swap.lock"  # in the workspace; whoever changes what is served holds it

log = logging.getLogger(__name__)


class SwapRefusedError(RayrecError):
    """A replica can't serve a bundle; the message says why. The service keeps the bundles that it had."""


def serve(config: Config) -> str:
    """Deploys the workspace's current bundle on our head, which is started unless it runs, and returns the URL once it answers.

    If the service runs already, its replicas move to the current bundle, and a canary ends. If that fails, the service keeps what
    it has. If it fails, a head that was started for it is stopped. Raises `ClusterError` with the reason if the service does not
    start, `WorkspaceError` if nothing has been published, `BundleError` if the published bundle is broken, and what `check` raises;
    all but the first before anything is started.
    """
    check(config)
    for problem in missing_folders(config):
        log.warning("%s", problem)
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    verify(workspace.fs, folder)
    if config.serving.uploads is not None and not model_of(workspace.fs, folder):
        raise BundleError(
            f"serving.uploads: bundle {version} can't describe new videos; it takes the stages extract and reduce, then `rayrec "
            "publish CONFIG`. Or leave out serving.uploads"
        )
    with started(config) as address, workspace.locked(SWAP_LOCK):
        if address.keys != auth.Keys.of().fingerprint():
            raise ClusterError(
                f"{auth.KEYS_VARIABLE} has changed since the head was started; run `rayrec stop CONFIG`, then `rayrec serve CONFIG`"
            )
        check_credentials(config, address)
        client = _client_of(address)
        _check_address(client.get_serve_details().get("http_options"), address, config.serving)
        version, _ = locate(workspace, None)  # a swap may have changed it meanwhile
        workspace.pin("publish", {version})  # a replica may restart at any time
        address.listen.write_text(bracketed(config.serving.host))
        client.deploy_applications(_application(config, version, address.ingress))
        url = _url(config.serving)
        _await(client, url, version)
    return url


def check(config: Config) -> None:
    """Raises the errors of `serve` that are known without the bundle, so that a long run does not end with them.

    These are `ConfigError` if everyone could use the service, if a recall source or a package is missing, or if this machine has no
    room for the replicas, and `ClusterError` if the service can't listen at its address. A head that has died in part is ended
    first.
    """
    serving = config.serving
    auth.check_exposure(serving.host, auth.Keys.of())
    sources.check(config)
    check_installed(config)
    check_room("serving.ranker_replicas", serving.ranker_replicas, cpus=1, gpus=serving.gpus_per_ranker)
    beside = serving.ranker_replicas + (0.5 if serving.uploads else 0)
    check_room("serving.recall_replicas", serving.recall_replicas, cpus=0.5, also_cpus=beside)
    if config.search is not None:
        others = beside + 0.5 * serving.recall_replicas
        check_room("search.replicas", config.search.replicas, cpus=0.25, also_cpus=others)
    if running(config) is None:
        end_remains(config)
        max_connections()
        _check_free(serving)


def current_rollout(config: Config) -> Rollout:
    """Returns what the running service was last asked to serve, always with a version. Raises `ClusterError` if none runs."""
    rollout = _rollout_of(_client(config).get_serve_details())
    return rollout if rollout.version else rollout.model_copy(update={"version": reports(config)[0].bundles[STABLE]})


def apply_rollout(config: Config, rollout: Rollout) -> None:
    """Has all replicas of the running service carry out a rollout, and waits until they have.

    Raises `SwapRefusedError` if a replica can't, or not in time; all replicas are then asked to return to what they served before,
    unless they have been asked for something else meanwhile.
    """
    client = _client(config)
    found = client.get_serve_details()
    before = _rollout_of(found)
    takes_videos = INTAKE in _application_of(found).get("deployments", {})
    client.deploy_applications(with_rollout(_serve_config(found), rollout, takes_videos))
    deadline, reason = time.monotonic() + ROLLOUT_TIMEOUT_S, None
    while reason is None and time.monotonic() < deadline:
        time.sleep(0.3)
        reason = verdict(reports(config), rollout)
        found = client.get_serve_details()
        if (now := _rollout_of(found)) != rollout:
            raise SwapRefusedError(f"another swap came before this one had ended; the service was asked for {now.version} since")
    if reason != "":
        client.deploy_applications(with_rollout(_serve_config(found), before, takes_videos))
        raise SwapRefusedError(f"the new bundle is refused: {reason or f'replicas were not ready after {ROLLOUT_TIMEOUT_S} s'}")


def reports(config: Config) -> list[Report]:
    """The reports of all replicas of TopicRecall. Raises `ClusterError` if none runs."""
    return cast(list[Report], _ask_all(config, RECALL))


def ranker_reports(config: Config) -> list[RankerReport]:
    return cast(list[RankerReport], _ask_all(config, RANKER))


def details(config: Config) -> dict[str, Any]:
    """What Serve says about the application. Raises `ClusterError` if it does not run."""
    return _application_of(_client(config).get_serve_details())


def with_rollout(serve_config: dict[str, Any], rollout: Rollout, takes_videos: bool = False) -> dict[str, Any]:
    """Returns a copy of a Serve config in which our deployments have this rollout as their `user_config`."""
    changed = copy.deepcopy(serve_config)
    (application,) = (each for each in changed["applications"] if each["name"] == APPLICATION)
    sections = {section["name"]: section for section in application.setdefault("deployments", [])}
    for name in (RECALL, RANKER, *([INTAKE] if takes_videos else [])):
        if name not in sections:
            application["deployments"].append(sections.setdefault(name, {"name": name}))
        sections[name]["user_config"] = rollout.model_dump()
    return changed


def _ask_all(config: Config, deployment: str) -> list[Any]:
    _client(config)  # raises if there is nothing to connect to
    connect(config)
    import ray
    from ray import serve
    from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    handle, deadline = serve.get_deployment_handle(deployment, APPLICATION), time.monotonic() + REPORT_TIMEOUT_S
    while True:
        try:
            return handle.broadcast("report").results(timeout_s=REPORT_TIMEOUT_S)
        except (RayServeException, ray.exceptions.RayError, TimeoutError) as error:
            # Serve does not list a replica while it is being reconfigured.
            if not isinstance(error, DeploymentUnavailableError) or time.monotonic() > deadline:
                raise ClusterError(f"the replicas of {deployment} do not answer: {error!r}") from error
            time.sleep(0.2)


def _client(config: Config) -> Any:
    """A client of Serve's REST API on the cluster that `connect` connects to. Raises `ClusterError` if there is none."""
    remote = bool(os.environ.get("RAY_ADDRESS"))
    address = None if remote else running(config)
    if not remote and address is None:
        raise ClusterError("the service does not run; `rayrec serve CONFIG` starts it")
    if address is None:
        import ray
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        connect(config)
        return ServeSubmissionClient(ray._private.worker.get_dashboard_url())
    return _client_of(address)


def _client_of(address: Address) -> Any:
    """A client of Serve's REST API on our head. Raises `ClusterError` if its dashboard does not answer."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    bypass_proxies()
    use_token()
    try:
        return ServeSubmissionClient(address.dashboard)
    except ConnectionError as error:
        raise ClusterError(f"Ray's dashboard at {address.dashboard} does not answer ({error})") from error


def _url(serving: Serving) -> str:
    """Where this machine reaches the service."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(serving.host, serving.host)
    return f"http://{bracketed(host)}:{serving.port}"


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _application_of(found: dict[str, Any]) -> dict[str, Any]:
    if APPLICATION not in found["applications"]:
        raise ClusterError("the service does not run; `rayrec serve CONFIG` starts it")
    return cast(dict[str, Any], found["applications"][APPLICATION])


def _rollout_of(found: dict[str, Any]) -> Rollout:
    sections = _application_of(found)["deployed_app_config"].get("deployments", [])
    configs = {section["name"]: section.get("user_config") for section in sections}
    return Rollout.model_validate(configs.get(RECALL) or {})


def _serve_config(found: dict[str, Any]) -> dict[str, Any]:
    """The Serve config of everything that is deployed, since Serve removes whatever the next config does not contain."""
    _application_of(found)
    kept = {name: found[name] for name in ("proxy_location", "http_options", "grpc_options") if found.get(name)}
    return kept | {"applications": [each["deployed_app_config"] for each in found["applications"].values()]}


def _await(client: Any, url: str, version: str) -> None:
    """Waits until the service at `url` answers from this version of the bundle."""
    deadline, state = time.monotonic() + DEPLOY_TIMEOUT_S, {"status": ""}
    while time.monotonic() < deadline and state["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"):
        state = client.get_serve_details()["applications"].get(APPLICATION, state)
        if state["status"] == "RUNNING":
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)  # never through a proxy
                if answer.is_success and answer.json()["bundle"] == version:
                    return
        time.sleep(0.2)
    raise ClusterError(f"the service did not start at {url}: {_reason(state)}")


def _reason(state: dict[str, Any]) -> str:
    """The last line of Serve's message about the first failed deployment, or about the application; it holds the exception."""
    deployments = [deployment.get("message") for deployment in state.get("deployments", {}).values()]
    message = next(filter(None, [*deployments, state.get("message")]), "").strip()
    return message.splitlines()[-1] if message else "it did not answer in time"


def _application(config: Config, version: str, ingress: str) -> dict[str, Any]:
    """The Serve config that `serve deploy` would read from a file.

    The bundle's version is in `user_config`, since a change of that restarts no replica. Serve's own proxy and the replicas listen
    at `ingress`; HAProxy alone listens at the service's address.
    """
    settings = dump(config)
    if "://" not in config.workspace:
        settings["workspace"] = str(Path(config.workspace).expanduser().resolve())
    if not is_redis(config):
        settings["serving"]["state"] = str(state_path(config))
    names = [RECALL, RANKER]
    if uploads := settings["serving"]["uploads"]:
        names.append(INTAKE)
        for key in ("folder", "watch_folder"):
            uploads[key] = _absolute(uploads[key])
        uploads["media_roots"] = [_absolute(root) for root in uploads["media_roots"]]
        if "media_root" in settings["dataset"]:
            settings["dataset"]["media_root"] = _absolute(settings["dataset"]["media_root"])
    return {
        "http_options": {"host": ingress, "port": config.serving.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "rayrec.serving.cluster.deployments:app",
                "args": {"config": settings},
                "deployments": [{"name": name, "user_config": Rollout(version=version).model_dump()} for name in names],
            }
        ],
    }


def _absolute(folder: str | None) -> str | None:
    return folder if folder is None or "://" in folder else str(Path(folder).expanduser().resolve())


def _check_address(found: dict[str, Any] | None, address: Address, serving: Serving) -> None:
    """Raises `ClusterError` if our service runs at another address, as Serve can't move.

    `found` is what Serve says about its HTTP options, None if it does not run.
    """
    if found is None:
        _check_free(serving)
        return
    host = address.listen.read_text() if address.listen.exists() else found["host"]
    before, wanted = f"{host}:{found['port']}", f"{bracketed(serving.host)}:{serving.port}"
    if before != wanted:
        raise ClusterError(f"the service runs at {before} already; run `rayrec stop CONFIG` before it can move to {wanted}")


def _check_free(serving: Serving) -> None:
    """Raises `ClusterError` if the service can't listen at its address."""
    problem = processes.listen_problem(serving.host, serving.port)
    if problem is not None and problem.errno == errno.EADDRINUSE:
        raise ClusterError(
            f"port {serving.port} of {serving.host} is in use by another program; end that, or set serving.port to another port"
        )
    if problem is not None:
        raise ClusterError(
            f"the service can't listen on port {serving.port} of {serving.host} ({problem.strerror}); change serving.host or "
            "serving.port"
        )
