"""Several hosts on one machine: each has a network interface, a file system, a name and processes of its own.

A host is a set of Linux namespaces that a process holds. Hosts see the software that they are given and the rest of the machine's
files, but can't write them: what they write goes to a /tmp, a /home and a /dev/shm of their own. They reach each other, and this
process, only through a virtual switch. When this process ends, however it ends, so do the hosts with all their processes and
interfaces.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from tests.interfaces import changing

NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
TOOLS = ("ip", "unshare", "nsenter", "taskset", "curl")
READY = "ready"
OWN_FOLDERS = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # beside /home

# The first process of a host sets it up. It then waits until the pipe to this process is closed, which ends all others in the host.
# Names that /etc/hosts lacks are looked up where nobody listens, which fails at once.
SET_UP = """
set -e
hostname {name}
mount -t tmpfs tmpfs /home
mkdir -p /home/{name} /home/.software
{keep}
for folder in {folders}; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
{show}
printf '%s' {hosts} > /home/.hosts
mount --bind /home/.hosts /etc/hosts
echo 'nameserver 127.0.0.1' > /home/.resolv
mount --bind /home/.resolv /etc/resolv.conf
mount -o remount,bind,ro /
ip link set lo up
echo {ready}
cat
exit # so that bash stays and waits for processes whose parents have ended; `ray stop` would take them for alive
"""


def missing() -> str:
    """Why there can be no virtual hosts here, "" if there can."""
    if sys.platform != "linux":
        return "virtual hosts need Linux"
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"virtual hosts need {', '.join(lacking)} (Debian: apt-get install iproute2 util-linux curl)"
    trial = ["unshare", *NAMESPACES, "--fork", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    tried = subprocess.run(trial, capture_output=True)
    return "" if tried.returncode == 0 else f"virtual hosts need root and namespaces: {tried.stderr.decode().strip()}"


class VirtualHosts:
    """Hosts on a virtual network, while the `with` block runs. `outside` is the address of this process for them.

    `software` are folders that each host sees at the same paths, read-only, even below /tmp or /home. `cores` pins all processes of
    a host to a core.
    """

    def __init__(self, names: Sequence[str], software: Sequence[Path], cores: Mapping[str, int] | None = None) -> None:
        self.network, self.cores = _free_network(), cores or {}
        self.outside = f"{self.network}.1"
        self.addresses = {name: f"{self.network}.{number}" for number, name in enumerate(names, 2)}
        self.environment = {"PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._software = software
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._commands: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "VirtualHosts":
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def popen(self, host: str, command: str, output: IO[str] | int = subprocess.PIPE) -> "subprocess.Popen[str]":
        """Starts a command of bash on a host, in the home folder there. Standard error goes to the same place as its output."""
        environment = self.environment | {"HOME": f"/home/{host}", "LANG": "C.UTF-8"}
        words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), "bash", "-c", f"cd; {command}"]
        command_line = [*self._entering(host), *words]
        started = subprocess.Popen(command_line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True)
        self._commands.append(started)
        return started

    def run(self, host: str, command: str, timeout_s: float = 120) -> str:
        """The output of a command. Raises `RuntimeError` with it if the command fails or takes too long."""
        process = self.popen(host, command)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            raise RuntimeError(f"{command} on {host} did not end within {timeout_s:g} s: {process.communicate()[0]}") from None
        if process.returncode:
            raise RuntimeError(f"{command} on {host} ended with {process.returncode}: {output}")
        return output

    def write(self, host: str, path: str, content: str) -> None:
        """Writes a file below the home folder of a host, which nobody else may read."""
        self.run(
            host, f"umask 077; mkdir -p $(dirname {shlex.quote(path)}); printf %s {shlex.quote(content)} > {shlex.quote(path)}"
        )

    def cut(self, host: str) -> None:
        """Takes the host off the network: its packets, and those for it, are lost without a word."""
        self._switch(f"ip link set {host} down")

    def join(self, host: str) -> None:
        self._switch(f"ip link set {host} up")

    # --- how it is made ---

    def _start(self) -> None:
        # The switch is a host without files of its own. The interfaces disappear with it.
        self._hold("switch", f"ip link add switch type bridge && ip link set switch up && echo {READY} && cat")
        with changing():
            self._plug("outside", None, self.outside)
        for name, address in self.addresses.items():
            self._hold(name, self._set_up(name))
            self._plug(name, name, address)

    def _end(self) -> None:
        if "switch" in self._holders:
            # The interfaces would disappear with the switch, but later, when another test may be in a browser.
            with changing():
                subprocess.run([*self._entering("switch"), "ip", "link", "delete", "outside"], capture_output=True)
        for holder in reversed(self._holders.values()):
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.close()
            holder.kill()  # unshare, which kills the first process of the host
            holder.wait()
            holder.stdout.close()
        self._holders.clear()
        for command in self._commands:  # their processes have ended with their hosts
            command.wait()
            if command.stdout is not None:
                command.stdout.close()

    def _hold(self, name: str, command: str) -> None:
        unshare = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child", "bash", "-c", command]
        holder = subprocess.Popen(
            [*self._pinned(name), *unshare], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._holders[name] = holder
        assert holder.stdout is not None
        if (said := holder.stdout.readline().strip()) != READY:
            raise RuntimeError(f"the virtual host {name} can't be set up: {said}")

    def _set_up(self, name: str) -> str:
        software = [(f"/home/.software/{number}", shlex.quote(str(path))) for number, path in enumerate(self._software)]
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in self.addresses.items())]
        return SET_UP.format(
            name=name,
            ready=READY,
            folders=" ".join(OWN_FOLDERS),
            hosts=shlex.quote("".join(f"{line}\n" for line in lines)),
            keep="\n".join(f"mkdir {place}; mount --bind -o ro {path} {place}" for place, path in software),
            show="\n".join(f"mkdir -p {path}; mount --bind -o ro {place} {path}" for place, path in software),
        )

    def _plug(self, name: str, host: str | None, address: str) -> None:
        """Connects a host, or this process, to the switch with a virtual cable, whose other end is named after the host."""
        inside = f"rayrec{self.network.rpartition('.')[2]}" if host is None else "eth0"
        place = str(self._first(host)) if host else str(os.getpid())
        self._switch(f"ip link add {name} type veth peer name {inside} netns {place}")
        self._switch(f"ip link set {name} master switch up")
        ends = [] if host is None else ["nsenter", "--target", place, "--net"]
        route = "" if host is None else f" && ip route add default via {self.outside}"
        # An address of IPv6, which nobody needs, would come a second later.
        quiet = f"ip link set {inside} addrgenmode none 2> /dev/null"
        _check([*ends, "sh", "-c", f"{quiet}; ip address add {address}/24 dev {inside} && ip link set {inside} up{route}"])

    def _switch(self, command: str) -> None:
        _check(["nsenter", "--target", str(self._first("switch")), "--net", *command.split()])

    def _first(self, host: str) -> int:
        """The id of the first process of a host, outside of it."""
        (first,) = psutil.Process(self._holders[host].pid).children()
        return first.pid

    def _entering(self, host: str) -> list[str]:
        return [*self._pinned(host), "nsenter", "--target", str(self._first(host)), *NAMESPACES]

    def _pinned(self, host: str) -> list[str]:
        return ["taskset", "--cpu-list", str(self.cores[host])] if host in self.cores else []


def _free_network() -> str:
    """The first three numbers of a private network that this machine does not use."""
    used = {found.address.rpartition(".")[0] for interface in psutil.net_if_addrs().values() for found in interface}
    return next(network for network in _networks() if network not in used)


def _networks() -> Iterator[str]:
    yield from (f"10.213.{number}" for number in range(256))


def _check(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)}: {done.stderr.strip()}")
