"""How an experiment stands: sums of made-up events against a direct count, and false alarms where the arms are the same."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec import tables
from rayrec.config import ConfigError, load
from rayrec.evaluation.experiments.gains import gain
from rayrec.evaluation.experiments.moments import Moments
from rayrec.evaluation.experiments.sequential import FIRST, Mixture
from rayrec.serving.rollout import experiment_status
from rayrec.serving.rollout.experiment_status import METRICS, ExperimentStatus, Reader, read_statuses, status_of
from rayrec.serving.rollout.tally import MAX_DELAY_MS, Tally
from rayrec.serving.state.sqlite import SqliteStore
from rayrec.serving.state.store import Event, events_table
from tests.serving.rollout.browsing import EXPERIMENT, EXPERIMENTS, NOW, browse, outcome, page_of


def tally_of(events: list[Event], pieces: int = 1) -> Tally:
    tally = Tally("fresh", EXPERIMENT)
    for part in np.array_split(np.arange(len(events)), pieces):
        tally.take(events_table(events[number] for number in part))
    return tally


def of_user(tally: Tally) -> list[float]:
    """The sums of the only user."""
    [sums] = tally.users()[1].tolist()
    return sums


def test_a_video_of_a_page_is_clicked_once_and_watched_for_the_longest_time() -> None:
    events = page_of("ann", "r1", "stable fresh=more")
    events += [outcome("ann", "r1", "click"), outcome("ann", "r1", "click"), outcome("ann", "r1", "click", "v1")]
    events += [outcome("ann", "r1", "watch", watch_s=seconds) for seconds in (2.0, 9.0, 4.0)]
    events += [outcome("ann", "r1", "watch", "v1", watch_s=1.5), outcome("ann", "r1", "like")]
    assert of_user(tally_of(events)) == of_user(tally_of(events, pieces=7)) == [3, 2, 10.5]


def test_only_events_of_a_page_of_the_experiment_count() -> None:
    events = page_of("ann", "r0", "stable") + page_of("ann", "r1", "canary order=b fresh=control")
    events += page_of("ann", "r2", "stable freshness=more") + page_of("ann", "r3", "stable fresh=gone")
    others = [outcome("ann", request, "click") for request in ("r0", "r2", "r3", "r4", None)]
    others += [outcome("bob", "r1", "click"), outcome("ann", "r1", "click", at=NOW + MAX_DELAY_MS + 1)]
    tally = tally_of(events + others)
    assert tally.users()[0].tolist() == [0]
    assert of_user(tally) == [3, 0, 0]


def test_where_views_are_reported_a_video_of_a_page_counts_from_its_view_on() -> None:
    events = page_of("ann", "r1", "stable fresh=more") + page_of("ann", "r2", "stable fresh=more")
    events += [outcome("ann", "r1", "view"), outcome("ann", "r1", "view"), outcome("ann", "r2", "view", "v2")]
    events += [outcome("ann", "r2", "click", "v2"), outcome("ann", "r9", "view")]
    assert of_user(tally_of(events)) == [6, 1, 0]
    seen = Tally("fresh", EXPERIMENT, "view")
    for each in events:
        seen.take(events_table([each]))
    assert of_user(seen) == [2, 1, 0]


def test_old_pages_are_forgotten_but_not_what_was_done_with_them() -> None:
    tally = tally_of([*page_of("ann", "r1", "stable fresh=more"), outcome("ann", "r1", "click")])
    later = page_of("ann", "r2", "stable fresh=more", at=NOW + MAX_DELAY_MS + 1)
    tally.take(events_table(later))
    assert [page.at for page in tally._pages.values()] == [later[0].at]
    assert of_user(tally) == [6, 1, 0]


def test_a_user_of_several_arms_is_left_out_and_counted() -> None:
    events = page_of("ann", "r1", "stable fresh=more") + page_of("ann", "r2", "stable fresh=control")
    found = status_of(tally_of(events + page_of("bob", "r3", "stable fresh=more")), NOW)
    assert (found.several, [arm.users for arm in found.arms]) == (1, [0, 1])


def test_nothing_is_said_without_events() -> None:
    tally = Tally("fresh", EXPERIMENT)
    tally.take(tables.empty("events"))
    found = status_of(tally, NOW)
    assert [arm.users for arm in found.arms] == [0, 0]
    assert [metric.value for metric in found.arms[1].metrics] == [None, None, None]
    assert [metric.gain for metric in found.arms[1].metrics] == [None, None, None]
    assert not found.mismatch


def test_the_status_equals_a_direct_computation(tmp_path: Path) -> None:
    events = browse(np.random.default_rng(0), 600, better=0.4)
    config = load(None, [f"serving.state={tmp_path / 'events.db'}", f"serving.experiments={{fresh: {EXPERIMENT_YAML}}}"])
    with pytest.raises(ConfigError, match="no service has recorded events"):
        read_statuses(config, NOW)
    store = SqliteStore(tmp_path / "events.db")
    store.add_events(events)
    store.close()
    [found] = read_statuses(config, NOW)
    sums: dict[str, dict[str, np.ndarray]] = {"control": defaultdict(lambda: np.zeros(3)), "more": defaultdict(lambda: np.zeros(3))}
    for event in events:
        own = sums[EXPERIMENTS.of(event.user_id, NOW)["fresh"]][event.user_id]
        own += [event.kind == "impression", event.kind == "click", event.watch_s or 0]
    control, more = (np.array(list(sums[arm].values())) for arm in ("control", "more"))
    for arm, direct in zip(found.arms, (control, more), strict=True):
        assert (arm.users, arm.impressions, arm.clicks) == (len(direct), *direct[:, :2].sum(0).astype(int))
        assert arm.watch_s == pytest.approx(direct[:, 2].sum())
    pairs = {"clicks per user": (1, None), "click rate": (1, 0), "watch seconds per user": (2, None)}
    for compared in found.arms[1].metrics:
        above, below = pairs[compared.metric]
        values = [
            np.column_stack([arm[:, above], np.ones(len(arm)) if below is None else arm[:, below]]) for arm in (control, more)
        ]
        ratios = [value[:, 0].sum() / value[:, 1].sum() for value in values]
        assert compared.value == pytest.approx(ratios[1])
        assert compared.gain == pytest.approx(ratios[1] / ratios[0] - 1)
        seen = gain(Moments.of(values[0]), Moments.of(values[1]))
        low, high = seen.within(Mixture.for_users(1000).radius(600))
        assert (compared.low, compared.high) == (pytest.approx(low), pytest.approx(high))
        evidence = Mixture.for_users(1000).log_evidence(seen.z, np.array(600))
        assert compared.p_value == pytest.approx(min(1, np.exp(-evidence)))
        assert compared.detectable is not None
        assert compared.detectable_planned is not None
        assert compared.detectable_planned < compared.detectable


EXPERIMENT_YAML = "{arms: {control: 0.5, more: {share: 0.5, changes: {selection.explore: 0.2}}}, users: 1000}"


def test_a_config_without_experiments_is_told_so() -> None:
    with pytest.raises(ConfigError, match="the config has no experiments"):
        read_statuses(load(None, []), NOW)


def test_a_reader_reads_each_event_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_status, "AT_ONCE", 7)
    events, store, reader = browse(np.random.default_rng(1), 20), SqliteStore(tmp_path / "events.db"), Reader({"fresh": EXPERIMENT})
    store.add_events(events[:50])
    [before] = reader.statuses(store, NOW)
    store.add_events(events[50:])
    assert reader.statuses(store, NOW, at_most_s=0) == [before]
    assert reader.statuses(store, NOW) == reader.statuses(store, NOW) == [status_of(tally_of(events), NOW)]
    store.close()


def test_who_may_not_wait_gets_the_last_statuses_while_another_reads(tmp_path: Path) -> None:
    events, store, reader = browse(np.random.default_rng(2), 20), Paused(tmp_path / "events.db"), Reader({"fresh": EXPERIMENT})
    store.add_events(events[:50])
    before = reader.statuses(store, NOW)
    store.add_events(events[50:])
    with ThreadPoolExecutor(1) as thread:
        store.open.clear()
        reading = thread.submit(reader.statuses, store, NOW)
        assert store.asked.wait(10)
        assert reader.statuses(store, NOW, at_most_s=5.0) is before
        assert not reading.done()
        store.open.set()
        assert reading.result() == [status_of(tally_of(events), NOW)]
    assert reader.statuses(store, NOW, at_most_s=5.0) == reading.result()
    store.close()


class Paused(SqliteStore):
    """A store that is read only while it is `open`; `asked` says that somebody waits for it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open, self.asked = threading.Event(), threading.Event()
        self.open.set()

    def read(self, first: int, upto: int | None) -> Iterator[pa.Table]:
        if not self.open.is_set():
            self.asked.set()
            assert self.open.wait(10)
        return super().read(first, upto)


def alarms(found: ExperimentStatus) -> list[bool]:
    return [metric.p_value is not None and metric.p_value <= 0.05 for metric in found.arms[1].metrics]


def test_false_alarms_are_rare_although_users_come_back_and_each_piece_is_looked_at() -> None:
    runs, users = 200, FIRST + 100
    rng, called, mismatches = np.random.default_rng(3), np.zeros((200, len(METRICS)), bool), 0
    for run in range(runs):
        tally, events = Tally("fresh", EXPERIMENT), events_table(browse(rng, users, run=run))
        for piece in range(0, events.num_rows, 600):
            tally.take(events.slice(piece, 600))
            found = status_of(tally, NOW)
            called[run] |= alarms(found)
            mismatches += found.mismatch
    assert (called.mean(0) <= 0.05).all()
    assert mismatches <= 0.01 * runs


def test_a_gain_is_found_and_a_lost_share_is_noticed() -> None:
    events = browse(np.random.default_rng(4), 1200, better=0.6)
    assert alarms(status_of(tally_of(events), NOW)) == [True, True, True]
    lost = [event for event in events if event.arm != "stable fresh=more" or hash_of(event.user_id) % 3]
    assert status_of(tally_of(lost), NOW).mismatch


def hash_of(user: str) -> int:
    return int(user.rsplit("u", 1)[1])


def test_arms_may_be_chunked_or_dictionaries() -> None:
    table = pa.concat_tables([events_table(page_of("ann", f"r{n}", "stable fresh=more")) for n in range(3)])
    tally = Tally("fresh", EXPERIMENT)
    tally.take(table)
    assert of_user(tally) == [9, 0, 0]
