"""Finds and kills the processes of a head, and finds free ports on this machine."""

import contextlib
import os
import socket
import time

import psutil

from rayrec.errors import RayrecError

KILL_TIMEOUT_S = 10


class ProcessError(RayrecError):
    """A process can't be killed; the message has its id."""


def belonging_to(session: int, folder: str) -> list[psutil.Process]:
    """The running processes of a Unix session, and those of other sessions (jobs have their own) that write into its folder.

    The number of a session may be reused long after its processes have ended. Therefore it counts only if one of its processes
    writes into the folder.
    """
    found, known = [], False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.uids().real != os.getuid() or not _lives(process):
                continue
            writes, inside = _writes_into(process, folder), os.getsid(process.pid) == session
            known |= writes and inside
            if writes or inside:
                found.append((process, writes))
    return [process for process, writes in found if writes or known]


def kill(session: int, folder: str) -> bool:
    """Kills processes until none belongs to the session and its folder; returns whether there were any.

    Raises `ProcessError` if a process can't be killed.
    """
    found = False
    while processes := belonging_to(session, folder):
        found = True
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # All of them must have ended before the next search, since those that write into the folder might end first.
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while alive := [process.pid for process in processes if _lives(process)]:
            if time.monotonic() > deadline:
                raise ProcessError(f"these processes can't be killed: {alive}; end them, or restart the machine")
            time.sleep(0.02)
    return found


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback that are not in use."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen at this address."""
    return listen_problem(host, port) is None


def listen_problem(host: str, port: int) -> OSError | None:
    """Why no server could listen at this address: another one does, or the address is not of this machine; None if one could."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def answers(host: str, port: int) -> bool:
    """Whether a server listens at this address."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def names(among: list[psutil.Process]) -> set[str]:
    """The names of those that have not ended meanwhile, as an HAProxy does when it is reloaded."""
    found = set()
    for process in among:
        with contextlib.suppress(psutil.Error):
            found.add(process.name())
    return found


def listen_at(among: list[psutil.Process], ports: set[int]) -> bool:
    """Whether these processes listen at all of these TCP ports."""
    found = set()
    for process in among:
        with contextlib.suppress(psutil.Error):
            found |= {each.laddr.port for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    return ports <= found


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs. A zombie does not: it waits for a parent that may never ask for its status."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _writes_into(process: psutil.Process, folder: str) -> bool:
    """Whether the process's standard output or error is a file in the folder, or its command line names one."""
    if any(f"{folder}/" in argument for argument in process.cmdline()):
        return True
    return any(file.fd in (1, 2) and file.path.startswith(f"{folder}/") for file in process.open_files())
