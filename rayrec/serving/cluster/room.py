"""Whether the processes that a config asks for find room, before one waits for ever for resources that will never come.

A head on this machine has what the machine has, and no autoscaler: what it lacks is known before Ray starts. What a cluster that
RAY_ADDRESS names can have is asked of the cluster, when a stage begins its work.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rayrec.config import ConfigError
from rayrec.serving.cluster.head import cpus as machine_cpus

WAIT_S = 45.0  # for other work on this machine to end
GROWTH_S = 1800.0  # for the autoscaler of a cluster to start nodes, each of which may install 6.5 GB
POLL_S = 1.0
# What `ray up` leaves on its head: cluster.yaml, with the resources of the node types.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")

Resources = Mapping[str, float]

log = logging.getLogger(__name__)


def check_room(key: str, count: int, *, cpus: float = 0, gpus: float = 0, also_cpus: float = 0) -> None:
    """Raises `ConfigError` if this machine can't hold `count` processes, the value of `key`, with so many CPUs and GPUs each.

    `also_cpus` are needed beside them. Nothing is started, and nothing is checked if RAY_ADDRESS names a cluster.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    _refuse_lack(key, count, "CPUs", cpus, also_cpus, machine_cpus())
    if gpus:
        _refuse_lack(key, count, "GPUs", gpus, 0, machine_gpus())


def check_training(section: str, workers: int, gpus: float) -> None:
    """Raises `ConfigError` if this machine can't hold the workers of a training, or for a GPU that no worker would reserve."""
    if workers:
        check_room(f"{section}.workers", workers, cpus=0 if gpus else 1, gpus=gpus)
    elif gpus:
        raise ConfigError(
            f"{section}.gpus_per_worker: with workers=0 the training runs in this process, for which no GPU is reserved; set "
            f"{section}.workers to 1 or more, or gpus_per_worker to 0"
        )


def await_room(key: str, count: int, *, cpus: float = 0, gpus: float = 0) -> None:
    """Waits until the Ray to which this process is connected has room for so many processes.

    Raises `ConfigError` if other work on this machine, such as a service, still holds the room after `WAIT_S`, or if
    neither the nodes of a cluster that RAY_ADDRESS names nor those that it may add can hold the processes.
    """
    asked = {"CPU": cpus, "GPU": gpus}
    if os.environ.get("RAY_ADDRESS"):
        _await_nodes(key, count, {name: amount for name, amount in asked.items() if amount})
        return
    import ray

    deadline = time.monotonic() + WAIT_S
    while True:
        free = ray.available_resources()
        if all(free.get(name, 0) >= count * amount for name, amount in asked.items()):
            return
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{key}={count} with {cpus:g} CPUs and {gpus:g} GPUs each: {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs of this machine are free; ask for fewer, or stop what runs beside, such as a service"
            )
        time.sleep(0.5)


def machine_gpus() -> int:
    """The number of GPUs that Ray would find on this machine, CUDA_VISIBLE_DEVICES considered."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    return int(ResourceAndLabelSpec._get_current_node_accelerator(None, {})[1])


def _refuse_lack(key: str, count: int, what: str, each: float, also: float, there: float) -> None:
    if count * each + also > there:
        beside = f", and others need {also:g}" if also else ""
        raise ConfigError(f"{key}={count} with {each:g} {what} each{beside}: this machine has {there:g}; ask for fewer")


# --- clusters -------------------------------------------------------------------------------------------------------------------


def places(nodes: Iterable[Resources], asked: Resources) -> int:
    """How many processes that ask for these resources fit on the nodes; a process can't span two."""
    return sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in asked.items()) for node in nodes)


def room_for(asked: Resources) -> int:
    """How many such processes the nodes of the Ray to which this process is connected can hold, whatever runs there now."""
    import ray

    return places((node["Resources"] for node in ray.nodes() if node["Alive"]), asked)


def nodes_at_most(cluster: dict[str, Any]) -> list[Resources]:
    """The nodes that a cluster has when it has grown as far as its file (cluster.yaml) allows."""
    head = cluster["head_node_type"]
    return [
        spec["resources"]
        for name, spec in cluster["available_node_types"].items()
        for _ in range(1 if name == head else spec.get("max_workers", 0))
    ]


def _await_nodes(key: str, count: int, asked: Resources) -> None:
    """Waits until the cluster's nodes can hold the processes; its autoscaler learns from a placement group what is wanted."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group, deadline = None, time.monotonic() + GROWTH_S
    try:
        while asked and (held := room_for(asked)) < count:
            wanted = f"{key}={count} with {' and '.join(f'{amount:g} {name}s' for name, amount in asked.items())} each"
            if group is None:
                log.info("%s: the cluster has room for %d, and is asked for more", wanted, held)
                group = placement_group([dict(asked)] * count)
            reason = _hopeless(count, asked, group.id.hex())
            if reason is None and time.monotonic() > deadline:
                reason = f"no more nodes came in {GROWTH_S:.0f} s"
            if reason is not None:
                raise ConfigError(
                    f"{wanted}: the cluster has room for {held}, and {reason}; ask for fewer, or let it have more nodes"
                )
            time.sleep(POLL_S)
    finally:
        if group is not None:
            remove_placement_group(group)


def _hopeless(count: int, asked: Resources, group: str) -> str | None:
    """Why the cluster will never have the nodes for the placement group, as far as its autoscaler says so; else None."""
    file = BOOTSTRAP.expanduser()
    if file.is_file():
        most = places(nodes_at_most(yaml.safe_load(file.read_text())), asked)
        if most < count:
            return f"with all the nodes that it may add, it has room for {most}"
    if _only_watches():
        return "it adds no nodes"
    if group in _refused_groups():
        return "no node that it may add would change that"
    return None


def _only_watches() -> bool:
    """Whether the autoscaler starts no nodes: each node is then a type of its own, named after the node."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    report = status.get("autoscaler_report") or {}
    types = [*report.get("active_nodes", {}), *(report.get("idle_nodes") or {})]
    return bool(types) and all(name.startswith("node_") for name in types)


def _refused_groups() -> str:
    """What the autoscaler of KubeRay (version 2) says of placement groups for which no nodes can be had; it holds their ids."""
    from ray._private.worker import global_worker
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    reply.ParseFromString(global_worker.gcs_client.get_cluster_status(timeout_s=10))
    return " ".join(request.details for request in reply.autoscaling_state.infeasible_gang_resource_requests)
