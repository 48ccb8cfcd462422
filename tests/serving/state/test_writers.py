"""Processes that write to one store at once, or are killed while they write: nothing that was acknowledged is lost."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from rayrec.config import Config
from rayrec.serving.state.opening import is_redis, open_store
from tests.serving.state.events import kept

ROOT = Path(__file__).parents[3]

# A process that has all imported and forks one writer for each round. A writer says which batches were acknowledged; it is killed
# at a random moment after its first, or (without an end of the moments) writes all of its 100 batches.
WRITERS = """
import os, random, signal, sys, time
from rayrec.config import load
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event

def write(round, batches, acknowledged):
    store = open_store(load(None, [f"serving.state={sys.argv[1]}"]))
    for batch in range(batches):
        store.add_events([Event(f"{round}-{batch}-{n}", str(round), f"v{n}", "click", batch + 1) for n in range(5)])
        os.write(acknowledged, b"%d-%d\\n" % (round, batch))

def start(round, batches):
    reading, writing = os.pipe()
    if not (child := os.fork()):
        write(round, batches, writing)
        os._exit(0)
    os.close(writing)
    return child, os.fdopen(reading)

open_store(load(None, [f"serving.state={sys.argv[1]}"])).close()  # all is imported now
rounds, longest_s, rng = int(sys.argv[2]), float(sys.argv[3]), random.Random(0)
if not longest_s:
    for child, acknowledged in [start(round, 100) for round in range(rounds)]:
        print(acknowledged.read())
        os.waitpid(child, 0)
for round in range(rounds) if longest_s else ():
    child, acknowledged = start(round, 10**9)
    print(acknowledged.readline())
    time.sleep(rng.uniform(0, longest_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(acknowledged.read())
"""


def acknowledged_by_writers(state: Config, rounds: int, longest_s: float) -> set[str]:
    """The event ids of what `WRITERS` say was acknowledged."""
    command = [sys.executable, "-c", WRITERS, str(state.serving.state), str(rounds), str(longest_s)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True).stdout
    return {f"{batch}-{n}" for batch in told.split() for n in range(5)}


def test_several_processes_write_at_once(state: Config) -> None:
    acknowledged = acknowledged_by_writers(state, rounds=3, longest_s=0)
    store = open_store(state)
    assert Counter(each.event_id for each in kept(store)) == Counter(acknowledged)
    assert len(acknowledged) == 3 * 100 * 5
    store.close()


def test_no_acknowledged_event_is_lost_when_the_process_is_killed(state: Config) -> None:
    """A process is killed in the middle of intake, at another moment each time."""
    rounds = 5 if is_redis(state) else 20
    acknowledged = acknowledged_by_writers(state, rounds, longest_s=0.05)
    store = open_store(state)
    there = Counter(each.event_id for each in kept(store))
    store.close()
    assert len(acknowledged) > rounds * 5
    assert acknowledged <= there.keys()
    assert set(there.values()) == {1}
    assert set(Counter(event_id.rpartition("-")[0] for event_id in there).values()) == {5}  # no batch in part
