"""Which processes belong to a head, and what is known of them when they end meanwhile."""

import subprocess
import sys

import psutil

from rayrec.serving.cluster import processes


def test_a_process_that_has_ended_has_no_name_and_no_ports() -> None:
    command = [sys.executable, "-c", "print(1, flush=True); input()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as lives, subprocess.Popen(command, **pipes) as ends:
        for each in (lives, ends):
            assert each.stdout is not None
            each.stdout.readline()  # before that, it may still have its parent's name
        both = [psutil.Process(lives.pid), psutil.Process(ends.pid)]
        ends.kill()
        ends.wait()
        assert processes.names(both) == {both[0].name()}
        assert not processes.listen_at(both, {1})
        lives.kill()
