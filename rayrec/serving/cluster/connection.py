"""The Ray cluster of a workspace on this machine: starts its head, finds it, joins it and stops it.

The head stays up after the command that started it has ended. `cluster.json` in the workspace says where it is, and `stop` ends its
processes and no others. Only `connect` imports Ray, so that commands that need no cluster start at once.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rayrec.config import Config, ConfigError
from rayrec.serving.cluster import processes
from rayrec.serving.cluster.head import Address, ClusterError, cpus, make_token, start_head, use_token


def start(config: Config) -> Address:
    """Returns our head, which is started unless it runs. Raises `ClusterError` if it does not start."""
    with _locked(config) as record:
        if address := running(config):
            return address
        make_token()
        address = start_head()
        written = record.with_suffix(".new")
        written.write_text(json.dumps(asdict(address), indent=1))
        written.replace(record)
        return address


def running(config: Config) -> Address | None:
    """Returns our head if it runs, otherwise None."""
    try:
        address = Address.read(_record(config))
    except (ConfigError, ClusterError, FileNotFoundError):
        return None
    host, _, port = address.gcs.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return address if address.processes() else None
    return None


def stop(config: Config) -> bool:
    """Kills our head and everything on it at once, since all events are on the disk; returns whether anything was running."""
    if not _record(config).exists():
        return False
    with _locked(config) as record:
        if not record.exists():
            return False
        address = Address.read(record)
        found = processes.kill(address.session, address.folder)
        shutil.rmtree(address.folder, ignore_errors=True)
        record.unlink()
        return found


def connect(config: Config) -> None:
    """Connects this process to Ray unless it is connected.

    It joins the cluster that RAY_ADDRESS names, else our head if it runs. Without either it starts a local Ray that ends with this
    process.
    """
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="warning")
        return
    address = running(config)
    make_token()
    use_token()
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # what ADDRESS_VARIABLE would have set before the import of ray
    if address:
        ray.init(address.gcs, logging_level="warning")
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=cpus(), include_dashboard=False, logging_level="warning")


def _record(config: Config) -> Path:
    """The path of cluster.json: in the workspace or, if that is not on this machine, beside the file of the events."""
    if "://" not in config.workspace:
        return Path(config.workspace).expanduser().resolve() / "state" / "cluster.json"
    from rayrec.serving.state.opening import is_redis, state_path

    if is_redis(config):
        raise ClusterError(f"neither {config.workspace} nor the events are on this machine: use `serve deploy serve_config.yaml`")
    return state_path(config).with_name("cluster.json")


@contextlib.contextmanager
def _locked(config: Config) -> Iterator[Path]:
    """The path of cluster.json, while no other process starts or stops the head. Raises `ClusterError` if it can't be written."""
    record = _record(config)
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = record.with_suffix(".lock").open("w")
    except OSError as error:
        raise ClusterError(f"{record.parent}, which says where the head is, can't be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield record
