"""The processes of a head, and free ports on this machine."""

import contextlib
import os
import socket
import time

import psutil

KILL_TIMEOUT_S = 10


def belonging_to(session: int, folder: str) -> list[psutil.Process]:
    """The living processes in a Unix session, and those in other sessions (jobs have their own) that write into its folder.

    A session's number may be in use again long after its processes have ended, so it counts only while one of them writes there.
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
    """Kill what belongs to a session and its folder, until nothing does; says if there was anything.

    Raises `TimeoutError` when something can't be killed.
    """
    found = False
    while processes := belonging_to(session, folder):
        found = True
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # All of this sweep must have gone before the next look: those that write into the folder might go first.
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while alive := [process.pid for process in processes if _lives(process)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"these processes can't be killed: {alive}")
            time.sleep(0.02)
    return found


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _lives(process: psutil.Process) -> bool:
    """Whether a process is there and is more than a zombie, which waits for a parent that may never look."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _writes_into(process: psutil.Process, folder: str) -> bool:
    """Whether the process's standard output or error is a file in the folder, or its command line names one."""
    if any(f"{folder}/" in argument for argument in process.cmdline()):
        return True
    return any(file.fd in (1, 2) and file.path.startswith(f"{folder}/") for file in process.open_files())
