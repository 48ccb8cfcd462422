"""What the replicas of both deployments share."""

from pathlib import Path
from typing import Any

import ray
from ray import serve

from rayrec.serving.bundle import locate
from rayrec.serving.http.request_log import checked_request_id
from rayrec.serving.rollout.arms import Rollout
from rayrec.workspace.versions import Workspace


def bundles_of(workspace: Workspace, rollout: Rollout) -> list[tuple[str, str]]:
    """The versions and folders of the bundles that a rollout names, the stable one first. Raises as `locate` does."""
    return [locate(workspace, version) for version in (rollout.version, *([rollout.canary.version] if rollout.canary else []))]


def replica_id() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)


def bind_to_node_address() -> None:
    """Makes this replica's inter-deployment gRPC server, which accepts pickles, listen on the node's own address only.

    Ray binds the server to every interface, even on a node whose address is the loopback. Must be called before the replica is
    initialised.
    """
    from ray.serve._private import replica

    node = ray.util.get_node_ip_address()
    host, original = f"[{node}]" if ":" in node else node, replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: original(server, address.replace("[::]", host))


def check_request_ids() -> None:
    """Makes Serve use the same id for a request as we do, and add no second header with it to the answer.

    Serve's own middleware, which surrounds the application, takes whatever id the caller sends, and puts it into logs and the
    answer.
    """
    from ray.serve._private.http_util import RequestIdMiddleware

    async def pass_on(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            others = [(name, value) for name, value in scope["headers"] if name.lower() != b"x-request-id"]
            scope = scope | {"headers": [*others, (b"x-request-id", checked_request_id(scope).encode())]}
        await self._app(scope, receive, send)

    RequestIdMiddleware.__call__ = pass_on


def log_folder() -> Path:
    """The folder of the logs of Ray's processes on this node."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


def copies_folder() -> Path:
    """The folder in which the replicas on this node share copies of bundles. It is in the folder of Ray's session."""
    return Path(ray._private.worker._global_node.get_session_dir_path()) / "bundles"
