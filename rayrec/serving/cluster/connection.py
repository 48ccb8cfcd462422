"""The Ray cluster of a workspace on this machine: starts its head, finds it, joins it and stops it.

The head stays up after the command that started it has ended. `cluster.json` in the workspace says where it is, and `stop` ends its
processes and no others. The record also says for which folder and on which machine it was written: in a copy of the workspace it is
not taken for the copy's own. Only `connect` imports Ray, so that commands that need no cluster start at once.
"""

import contextlib
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rayrec.config import Config, ConfigError
from rayrec.serving.cluster.head import (
    TMP,
    Address,
    ClusterError,
    bypass_proxies,
    cpus,
    make_token,
    recorded_heads,
    start_head,
    use_token,
)
from rayrec.workspace.stores import credentials

MAX_TMPDIR = 36  # bytes; Ray adds up to 71 to it for the path of a socket
JOIN_TIMEOUT_S = 5

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch


def start(config: Config) -> Address:
    """Returns our head, which is started unless it runs. Raises `ClusterError` if it does not start.

    Of a head that has died in part, what is left is ended first.
    """
    return _start(config)[0]


@contextlib.contextmanager
def started(config: Config) -> Iterator[Address]:
    """Our head, for work that is to leave it up. If the work fails, a head that was started here is stopped again."""
    address, new = _start(config)
    log.info("Ray runs at %s", address.dashboard)
    try:
        yield address
    except BaseException:
        if new:
            _disconnect(address)
            stop(config)
        raise


def running(config: Config) -> Address | None:
    """Returns our head if it runs, otherwise None. Raises `ClusterError` if the folder of the running head has been moved."""
    try:
        record = _record(config)
    except (ConfigError, ClusterError):  # neither workspace nor events are on this machine
        return None
    address = _ours(record)
    return address if address and address.runs() else None


def stop(config: Config) -> bool:
    """Kills our head and everything on it at once, since all events are on the disk; returns whether anything was running.

    Raises `ClusterError` if the head runs on another machine.
    """
    if not os.path.lexists(_record(config)):
        return False
    with _locked(config) as record:
        heads = recorded_heads(record)
        try:
            address = Address.read(record)
        except FileNotFoundError:
            return False
        except ClusterError as problem:
            log.warning("%s", problem)
        else:
            if not (foreign := _foreign(address, record)):
                heads.append(address)
            elif address.host != socket.gethostname() and not heads:
                raise ClusterError(f"{foreign}: run `rayrec stop CONFIG` there, or delete the file if that machine is gone")
        found = [address.end() for address in heads]
        record.unlink()
        return any(found)


def connect(config: Config) -> None:
    """Connects this process to Ray unless it is connected.

    It joins the cluster that RAY_ADDRESS names, else our head if it runs. Without either it starts a local Ray that ends with this
    process. Raises `ClusterError` if nothing answers at RAY_ADDRESS, or if our head can't read the workspace as this process can.
    """
    import ray

    if ray.is_initialized():
        return
    bypass_proxies()
    if named := os.environ.get("RAY_ADDRESS"):
        _join(named)
        return
    address = running(config)
    if address:
        check_credentials(config, address)
    make_token()
    use_token()
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # what ADDRESS_VARIABLE would have set before the import of ray
    if address:
        ray.init(address.gcs, logging_level="warning")
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=cpus(), include_dashboard=False, logging_level="warning", _temp_dir=_temp_dir())


def check_credentials(config: Config, address: Address) -> None:
    """Raises `ClusterError` for a workspace in S3 if a head was started with other credentials: its workers use those."""
    if config.workspace.startswith("s3://") and address.credentials != credentials():
        raise ClusterError(
            "the variables AWS_... of the environment have changed since the head was started; run `rayrec stop CONFIG`, then "
            "this command again"
        )


def end_remains(config: Config) -> None:
    """Ends what is left of our head if it has died in part, such as an HAProxy that still holds the port."""
    if running(config) is None and os.path.lexists(_record(config)):
        with _locked(config) as record:
            _end_remains(_ours(record), record)


def _end_remains(address: Address | None, record: Path) -> None:
    if address and not address.runs() and address.end():
        log.warning("the Ray head of %s had died in part; what was left of it has been ended", record.parent)


def _start(config: Config) -> tuple[Address, bool]:
    """Our head, and whether it was started now."""
    with _locked(config) as record:
        address = _ours(record)
        if address and address.runs():
            return address, False
        _end_remains(address, record)
        if record.exists() and (foreign := _foreign(Address.read(record), record)):
            log.warning("%s, whose head is left alone; if it serves this very folder, stop it there", foreign)
        make_token()
        return start_head(record, config.workspace, config.serving.timeout_s), True


def _ours(record: Path) -> Address | None:
    """The head that a record names, dead or alive; None if there is no record, or if it belongs to another folder or machine.

    Raises `ClusterError` if the record can't be read, or if its folder has been moved while the head runs.
    """
    try:
        address = Address.read(record)
    except FileNotFoundError:
        return None
    if _foreign(address, record):
        return None
    if not _same_file(address.record, record) and address.processes():
        raise ClusterError(f"a Ray head runs for {address.record}, which was moved to {record}; run `rayrec stop CONFIG` first")
    return address


def _foreign(address: Address, record: Path) -> str:
    """Says which other machine or folder a head belongs to, "" if it is that of the record, whose folder may have been moved."""
    if address.host != socket.gethostname():
        return f"{record} was written on {address.host}"
    with contextlib.suppress(ClusterError, OSError):
        if not _same_file(address.record, record) and Address.read(Path(address.record)).folder == address.folder:
            return f"{record} is a copy of {address.record}"
    return ""


def _same_file(one: str, other: Path) -> bool:
    """Whether two paths lead to one file, which may have several through mounts."""
    return one == str(other) or (os.path.exists(one) and os.path.samefile(one, other))


def _join(named: str) -> None:
    """Joins the cluster that RAY_ADDRESS names."""
    import ray

    host, _, port = named.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), JOIN_TIMEOUT_S).close()
        ray.init(logging_level="warning")
    except (OSError, ValueError) as error:  # a `ConnectionError` of Ray's is an `OSError`
        raise ClusterError(
            f"RAY_ADDRESS is {named}, but no Ray cluster can be joined there ({error}); unset it to use this machine alone"
        ) from error


def _disconnect(address: Address) -> None:
    """Ends this process's connection to a head, if it has one: Ray ends a process whose head disappears."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and ray.get_runtime_context().gcs_address == address.gcs:
        ray.shutdown()


def _temp_dir() -> str | None:
    """The folder for a local Ray where its own default has too long a path, or can't be written; else None."""
    default = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or TMP
    fits = len(os.fsencode(default)) <= MAX_TMPDIR and os.access(default, os.W_OK)
    return None if fits else f"{TMP}/ray"


def reserved_device() -> "torch.device":
    """The GPU that Ray has reserved for this process, otherwise the CPU.

    A GPU that merely exists is another's: Ray does not hide GPUs from workers that have reserved none.
    """
    import torch

    ray = sys.modules.get("ray")  # a process that has not imported it has reserved nothing
    return torch.device("cuda" if ray is not None and ray.is_initialized() and ray.get_gpu_ids() else "cpu")


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
