"""How often an experiment of the service is called where its arms are the same, through all that the service itself does.

    PYTHONPATH=. python benchmarks/experiment_path.py [--runs 1000] [--users 300] [--look 600]

Users are assigned by their ids, as in the service, get two pages of three videos, and click and watch some. Their events go into a
store of SQLite, which is read as by the dashboard after every `look` events: each look gives the p-values of all metrics. A run
calls a metric if any of its looks has a p-value of 0.05 or less.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import show

from rayrec.evaluation.experiments.sequential import ALPHA
from rayrec.serving.rollout.experiment_status import METRICS, Reader
from rayrec.serving.state.sqlite import SqliteStore
from tests.serving.rollout.browsing import EXPERIMENT, NOW, browse


def called(run: int, users: int, look: int, store: SqliteStore) -> tuple[list[bool], bool, int]:
    """Which metrics a run calls, whether it calls a mismatch of shares, and its looks."""
    events, reader = browse(np.random.default_rng((9, run)), users, run=run), Reader({"fresh": EXPERIMENT}, store.latest())
    metrics, mismatch, looks = [False] * len(METRICS), False, 0
    for start in range(0, len(events), look):
        # Ids of events are each user's own, and all runs have other users.
        store.add_events([event._replace(event_id=f"{run} {event.event_id}") for event in events[start : start + look]])
        [status] = reader.statuses(store, NOW)
        found = [each.p_value is not None and each.p_value <= ALPHA for each in status.arms[1].metrics]
        metrics = [before or now for before, now in zip(metrics, found, strict=True)]
        mismatch, looks = mismatch or status.mismatch, looks + 1
    return metrics, mismatch, looks


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--users", type=int, default=300, help="of both arms")
    arguments.add_argument("--look", type=int, default=600, help="events between two looks")
    given = arguments.parse_args()
    begun, found, mismatches, looks = time.process_time(), np.zeros(len(METRICS), int), 0, 0
    with TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "events.db")
        for run in range(given.runs):
            metrics, mismatch, count = called(run, given.users, given.look, store)
            found, mismatches, looks = found + metrics, mismatches + mismatch, looks + count
        store.close()
    rows = [{"what": name, "runs that call it": int(count)} for name, count in zip(METRICS, found, strict=True)]
    rows.append({"what": "shares of the users", "runs that call it": mismatches})
    show(
        f"false alarms of {given.runs} experiments of {given.users} users, {looks / given.runs:.1f} looks each",
        rows,
        cpu_seconds=round(time.process_time() - begun),
    )


if __name__ == "__main__":
    main()
