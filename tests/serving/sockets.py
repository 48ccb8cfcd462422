"""What listens where."""

import contextlib
from collections.abc import Iterable

import psutil


def listening(processes: Iterable[psutil.Process]) -> dict[tuple[str, int], str]:
    """The TCP sockets on which the processes listen: (address, port) -> the name of the process."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found[each.laddr.ip, each.laddr.port] = process.name()
    return found
