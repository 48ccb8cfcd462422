"""Virtual hosts share nothing but the network and the software, can be cut off from the network, and leave nothing behind."""

from pathlib import Path

import psutil
import pytest

from tests.virtual_hosts import VirtualHosts, missing

ROOT = Path(__file__).parents[1]
# A host that can be reached refuses the connection, since no program listens there.
ASK = "timeout 2 bash -c 'echo > /dev/tcp/one/9' 2>&1 | grep -q refused && echo refused || echo silent"


@pytest.fixture
def hosts() -> VirtualHosts:
    if reason := missing():
        pytest.skip(f"{reason}: virtual hosts are NOT tested")
    return VirtualHosts(["one", "two"], [ROOT])


def test_hosts_share_the_software_and_no_other_files_or_processes(hosts: VirtualHosts) -> None:
    with hosts:
        hosts.run("one", "touch ~/mine /tmp/mine; (sleep 1000 &) > /dev/null 2>&1")
        assert hosts.run("one", "hostname; pwd; ls ~ /tmp/mine").split() == ["one", "/home/one", "/tmp/mine", "/home/one:", "mine"]
        assert hosts.run("two", "ls ~; ls -d /home/one /tmp/mine 2> /dev/null || echo nothing") == "nothing\n"
        assert "sleep" not in hosts.run("two", "cat /proc/[0-9]*/comm").split()
        assert hosts.run("two", f"ls {Path(__file__)}; touch {ROOT}/mine 2>&1 | grep -o Read-only").split()[1:] == ["Read-only"]
        with pytest.raises(RuntimeError, match="false on one ended with 1"):
            hosts.run("one", "false")
        with pytest.raises(RuntimeError, match=r"did not end within 0\.5 s: begun"):
            hosts.run("one", "echo begun; sleep 1000", timeout_s=0.5)


def test_a_host_that_is_cut_off_is_silent_until_it_joins_again(hosts: VirtualHosts) -> None:
    with hosts:
        assert hosts.run("two", ASK) == "refused\n"
        hosts.cut("one")
        assert hosts.run("two", ASK) == "silent\n"
        hosts.join("one")
        assert hosts.run("two", ASK) == "refused\n"


def test_processes_that_have_ended_do_not_stay_as_zombies(hosts: VirtualHosts) -> None:
    with hosts:
        assert hosts.run("one", "(true &) > /dev/null 2>&1; sleep 1; grep -l 'State:.Z' /proc/[0-9]*/status || true") == ""


def test_nothing_is_left_behind(hosts: VirtualHosts) -> None:
    # Other tests of the session keep a cluster and servers, which are children of this process too.
    before = set(psutil.Process().children(recursive=True))
    with hosts:
        hosts.run("one", "sleep 1000 > /dev/null 2>&1 &")
        found = [process for process in psutil.Process().children(recursive=True) if process not in before]
        assert {process.name() for process in found} >= {"cat", "sleep"}
    assert psutil.wait_procs(found, 10)[1] == []
