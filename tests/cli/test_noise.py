"""What reaches the terminal while stages run: everything but the lines of Ray's that say nothing."""

import subprocess
import sys

NOISE = (
    "[2026-11-29 04:24:46,312 E 3404 3404] core_worker.cc:2465: Actor with class name: 'MapWorker(MapBatches(Decoder))' and ID: "
    "'dc' has constructor arguments in the object store and max_restarts > 0. If the arguments in the object store go out of scope "
    "or are lost, the actor restart will fail. See https://github.com/ray-project/ray/issues/53727 for more details."
)
ERROR = "[2026-11-29 04:24:47,000 E 3404 3404] core_worker.cc:99: The node died."
PROGRAM = """
import os, sys
from rayrec.cli.noise import without_known_noise

def native(text):
    os.write(2, (text + "\\n").encode())

with without_known_noise():
    native(sys.argv[1])
    native(sys.argv[2])
    print("from Python", file=sys.stderr)
    if sys.argv[3:] == ["crash"]:
        os.abort()
native("afterwards")
print("the end", file=sys.stderr)
"""


def printed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)


def test_a_known_line_is_left_out_and_all_else_is_printed() -> None:
    done = printed(NOISE, ERROR)
    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()[:2]) == sorted([ERROR, "from Python"])
    assert done.stderr.splitlines()[2:] == ["afterwards", "the end"]


def test_the_last_words_of_a_process_that_crashes_are_printed() -> None:
    done = printed(NOISE, ERROR, "crash")
    assert done.returncode < 0
    assert sorted(done.stderr.splitlines()[:2]) == sorted([ERROR, "from Python"])
    assert "core_worker.cc:2465" not in done.stderr
