"""What the replicas of both deployments share."""

import ray
from ray import serve

from rayrec.serving.bundle import locate
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
