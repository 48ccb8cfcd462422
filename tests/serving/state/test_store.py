"""Both state stores in the same tests: nothing is kept twice, nothing is lost, and time decides the order."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayrec.config import Config
from rayrec.config.serving import TAKEN
from rayrec.serving.state import store as store_module
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import DAY, Activity, Addition, Event, Since, StateStore, Traffic, Upload
from tests.serving.state.events import ALL, HOUR, clicked, codes, counted, event, kept


@pytest.fixture
def store(state: Config) -> Iterator[StateStore]:
    store = open_store(state)
    yield store
    store.close()


# --- intake and reading ---


def test_what_was_said_of_a_user_last_is_kept_until_the_user_is_forgotten(store: StateStore) -> None:
    store.put_users({"ann": '{"age":3}', "bob": '{"city":"Köln"}'})
    store.put_users({"ann": '{"age":4}'})
    assert [store.activity(user, ALL, 10, 0, 0).fields for user in ("ann", "bob", "eve")] == ['{"age":4}', '{"city":"Köln"}', ""]
    assert store.users() == {"ann": '{"age":4}', "bob": '{"city":"Köln"}'}
    assert store.forget("ann") == 0
    assert list(store.users()) == ["bob"]
    assert store.activity("ann", ALL, 10, 0, 0) == Activity([], [], b"", [], forgotten=True)
    assert store.activity("bob", ALL, 10, 0, 0).fields


def test_an_event_counts_once_however_often_it_comes(store: StateStore) -> None:
    assert store.add_events([event(1), event(2)]) == []
    assert store.add_events([event(2), event(3), event(3, "watch")]) == [event(2), event(3, "watch")]
    assert store.add_events([]) == []
    assert clicked(store) == ["v1", "v2", "v3"]
    assert counted(store) == {"v1": (0, 1), "v2": (0, 1), "v3": (0, 1)}


def test_each_user_has_event_ids_of_their_own(store: StateStore) -> None:
    assert store.add_events([event(1), event(1, user="bob"), event(1, user="bo")]) == []
    assert store.add_events([event(1, user="bob")]) == [event(1, user="bob")]
    assert [clicked(store, user) for user in ("ann", "bob", "bo")] == [["v1"]] * 3
    assert store.forget("bob") == 1
    assert store.add_events([event(1)]) == [event(1)]
    assert store.add_events([event(1, user="bob")]) == []


def test_history_is_in_the_order_of_the_clicks_not_of_their_arrival(store: StateStore) -> None:
    store.add_events([event(5), event(2), event(9, "impression"), event(7, user="bob")])
    store.add_events([event(3, "watch"), event(1)])
    activity = store.activity("ann", ALL, 10, 0, 0)
    assert activity == Activity(["v1", "v2", "v5"], [1001, 1002, 1005], codes("v5", "v2", "v9", "v3", "v1"), [], forgotten=False)
    assert store.activity("nobody", ALL, 10, 0, 0) == Activity([], [], b"", [], False)


def test_history_is_bounded_and_keeps_the_latest(store: StateStore) -> None:
    store.add_events([event(n, video=f"v{n % 4}") for n in range(20)])
    assert store.activity("ann", Since(at=1004), 3, 0, 0).clicked == ["v1", "v2", "v3"]
    assert store.activity("ann", Since(at=1019), 3, 0, 0) == Activity([], [], codes("v0", "v1", "v2", "v3"), [], False)


def test_of_events_at_the_same_moment_the_last_to_arrive_is_the_latest(store: StateStore) -> None:
    store.add_events([event(n, at=1000) for n in range(1, 12)])  # 11 sorts before 9 as text
    activity = store.activity("ann", ALL, 3, 0, 0)
    assert (activity.clicked, activity.clicked_at) == (["v9", "v10", "v11"], [1000] * 3)


def test_an_event_counts_by_its_number_however_late_it_came(store: StateStore) -> None:
    store.add_events([event(5), event(6)])
    upto = store.latest()
    store.add_events([event(1), event(7)])  # the first is late
    assert clicked(store, since=Since(number=upto)) == ["v1", "v7"]
    assert counted(store, since=Since(number=upto)) == {"v1": (0, 1), "v7": (0, 1)}
    assert counted(store, after=0, since=Since(upto, 1003)) == {"v7": (0, 1)}


def test_a_user_with_any_number_of_events_costs_a_bounded_look(store: StateStore) -> None:
    store.add_events([event(n, video=f"v{n % 10}") for n in range(store_module.MAX_EVENTS_READ + 50)])
    activity = store.activity("ann", ALL, store_module.MAX_EVENTS_READ + 50, 0, 0)
    assert len(activity.clicked) == store_module.MAX_EVENTS_READ
    assert activity.clicked_at[0] == 1050
    assert activity.seen == codes(*(f"v{n % 10}" for n in range(6, 16)))


def test_feedback_is_told_in_the_order_of_time_and_whatever_the_log_holds(store: StateStore) -> None:
    kinds = list(store_module.FEEDBACK)
    store.add_events([event(n, kind) for n, kind in reversed(list(enumerate(kinds, 1)))] + [event(20), event(21, "watch")])
    store.add_events([event(1, "like", user="bob")])
    told = tuple((kind, f"v{n}", 1000 + n) for n, kind in enumerate(kinds, 1))
    assert store.activity("ann", ALL, 10, 0, 0).feedback == told
    assert store.activity("ann", Since(number=100), 10, 0, 0).feedback == told
    assert store.activity("bob", Since(at=5000), 10, 0, 0).feedback == (("like", "v1", 1001),)
    assert store.forget("ann") == len(kinds) + 2
    assert store.activity("ann", ALL, 10, 0, 0).feedback == ()


def test_of_likes_and_skips_the_latest_are_told(store: StateStore) -> None:
    many = store_module.MAX_TOLD + 100
    store.add_events([event(n, "like" if n % 2 else "skip") for n in range(2 * many)] + [event(9999, "block_author", at=1)])
    told = store.activity("ann", ALL, 10, 0, 0).feedback
    assert told[0] == ("block_author", "v9999", 1)
    assert told[1:] == tuple(("like" if n % 2 else "skip", f"v{n}", 1000 + n) for n in range(200, 2 * many))


def test_a_block_outlives_the_retention_and_what_takes_it_back_does(store: StateStore) -> None:
    store.add_events([event(n, kind) for n, kind in enumerate(store_module.KINDS)])
    assert store.prune(HOUR, 0) == len(store_module.KINDS) - len(store_module.KEPT)
    assert store.prune(HOUR, 0) == 0
    assert [each.kind for each in kept(store)] == list(store_module.KEPT)
    assert tuple(kind for kind, _, _ in store.activity("ann", ALL, 10, 0, 0).feedback) == store_module.KEPT
    assert store.add_events([event(9, "block_author")]) == [event(9, "block_author")]  # it is not forgotten that it was there
    assert store.forget("ann") == len(store_module.KEPT)
    assert kept(store) == []


@pytest.mark.parametrize("kind", ["watch", "like", "skip", "click", "impression"])
def test_events_of_one_kind_hide_none_of_another(store: StateStore, kind: str) -> None:
    """A player that sends a heart-beat every second must not make the user's clicks and seen videos forgotten."""
    store.add_events([event(1, "impression"), event(2), event(3, "like"), event(4, "skip"), event(5, "watch")])
    beats = [event(10 + n, kind, video="long") for n in range(store_module.MAX_EVENTS_READ + 400)]
    for start in range(0, len(beats), 1000):
        store.add_events(beats[start : start + 1000])
    activity = store.activity("ann", ALL, 10_000, 0, 0)
    others = {"impression": "v1", "click": "v2", "like": "v3", "skip": "v4", "watch": "v5"}
    assert activity.seen == codes(*others.values(), "long")
    assert activity.clicked[0] == ("long" if kind == "click" else "v2")


def test_a_user_counts_once_a_day_for_a_video(store: StateStore) -> None:
    day = 20_000 * DAY
    events = [event(n, video="v", at=day + n) for n in range(1000)]
    events += [event(1000 + n, "impression", video="v", at=day + n) for n in range(500)]
    looks = []
    for start in range(0, len(events), 300):
        store.add_events(events[start : start + 300])
        looks.append(counted(store, after=start))
    assert looks == [{"v": (0, 1)}, {}, {}, {"v": (1, 0)}, {}]
    assert counted(store) == {"v": (1, 1)}
    assert counted(store, after=7, since=Since(number=7)) == {"v": (1, 0)}  # the log has the click
    store.add_events([event(2000, video="v", at=day + DAY), event(2001, video="v", at=day, user="bob"), event(2002, at=day)])
    assert counted(store) == {"v": (1, 3), "v2002": (0, 1)}
    assert store.traffic(day, HOUR)[0] == Traffic(day, 500, 1002)


def test_counts_are_those_since_the_last_look(store: StateStore) -> None:
    shown = [event(1, "impression", video="v"), event(2, "impression", video="v", user="bob")]
    store.add_events([*shown, event(3, video="v"), event(4, "like")])
    first = store.counts(0, ALL)
    assert counted(store) == {"v": (2, 1)}
    assert (first.upto, store.latest()) == (4, 4)
    assert counted(store, after=first.upto) == {}
    store.add_events([event(5, video="v", user="cat"), event(6, video="v", user="bob")])
    assert counted(store, after=first.upto) == {"v": (0, 2)}
    assert counted(store, since=Since(at=1005)) == {"v": (0, 1)}


def test_events_come_back_as_they_were_in_pieces(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sqlite", "redis"):
        monkeypatch.setattr(f"rayrec.serving.state.{module}.MAX_TABLE_ROWS", 100)
    given = [event(n, user=f"u{n % 3}:{n}")._replace(arm="canary", watch_s=n / 2) for n in range(1000)]
    given[500] = Event("naïve ✓", 'a "b"', "x:y|z", "watch", 10**12 + 7, "r:1", 1.5, None, '{"a":"é \\"1"}')
    for start in range(0, 1000, 300):
        store.add_events(given[start : start + 300])
    assert kept(store) == given
    pieces = list(store.read(151, 350))
    assert [piece.num_rows for piece in pieces] == [100, 100]
    assert pieces[0]["event_id"][0].as_py() == "e150"
    assert list(store.read(1001, None)) == []


def test_a_batch_is_kept_whole_or_not_at_all(store: StateStore) -> None:
    with pytest.raises(Exception, match="video_id"):
        store.add_events([event(1), event(2)._replace(video_id=None)])
    assert kept(store) == []
    assert store.add_events([event(1)]) == []


def test_many_threads_at_once(store: StateStore) -> None:
    """Also a broken batch among them spoils no other."""

    def add(worker: int) -> int:
        batches = [[event(n, user=f"u{n}") for n in range(start, start + 5)] for start in range(0, 100, 5)]
        new = sum(len(batch) - len(store.add_events(batch)) for batch in batches)
        with pytest.raises(Exception, match="kind"):
            store.add_events([event(1000 + worker), event(1)._replace(kind=None)])
        assert store.activity(f"u{worker}", ALL, 200, 0, 0).forgotten is False
        return new

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(add, range(8))) == 100
    assert Counter(each.event_id for each in kept(store)) == Counter(f"e{n}" for n in range(100))


def test_the_state_is_there_after_reopening(state: Config) -> None:
    first = open_store(state)
    first.add_events([event(1)])
    first.withdraw("v9", True)
    first.forget("bob")
    first.exported(1, 1001)
    first.close()
    second = open_store(state)
    assert second.add_events([event(1)]) == [event(1)]
    assert clicked(second) == ["v1"]
    assert (second.withdrawn(), second.activity("bob", ALL, 1, 0, 0).forgotten, second.since(2000)) == (["v9"], True, Since(1, 0))
    second.close()


# --- what else is kept ---


def test_traffic_by_time(store: StateStore) -> None:
    store.add_events([event(n, "impression", at=n * HOUR // 4) for n in range(8)])
    store.add_events([event(20, at=HOUR), event(21, at=2 * HOUR - 1), event(22, "like", at=9 * HOUR), event(23, at=5 * HOUR)])
    assert store.traffic(0, HOUR) == [Traffic(0, 4, 0), Traffic(HOUR, 4, 2), Traffic(5 * HOUR, 0, 1)]
    assert store.traffic(HOUR + 1, HOUR) == [Traffic(HOUR, 4, 2), Traffic(5 * HOUR, 0, 1)]
    assert store.traffic(HOUR + 16 * 60_000, HOUR // 4)[0] == Traffic(HOUR + HOUR // 4, 1, 0)
    with pytest.raises(ValueError, match="whole minutes"):
        store.traffic(0, 1000)


def test_withdrawn_videos(store: StateStore) -> None:
    for video_id in ("v1", "v2", "v2"):
        store.withdraw(video_id, True)
    store.withdraw("v1", False)
    store.withdraw("v3", False)
    assert store.withdrawn() == ["v2"]


def test_a_forgotten_user_is_gone(store: StateStore) -> None:
    store.add_events([event(n, "impression", user=f"u{n % 2}") for n in range(40)] + [event(50, user="u1")])
    assert store.forgotten(0) == set()
    assert store.forget("u1") == 21
    assert store.activity("u1", ALL, 10, 0, 0) == Activity([], [], b"", [], forgotten=True)
    assert {each.user_id for each in kept(store)} == {"u0"}
    assert (len(counted(store)), store.traffic(0, HOUR)) == (20, [Traffic(0, 20, 0)])
    assert store.activity("u0", ALL, 10, 0, 0).forgotten is False
    (digest,) = store.forgotten(store.latest())
    assert "u1" not in digest
    store.add_events([event(60, user="u1")])  # they are free to come back
    assert store.activity("u1", ALL, 10, 0, 0) == Activity(["v60"], [1060], codes("v60"), [], forgotten=True)
    assert store.forgotten(store.latest()) == set()
    assert store.forget("u1") == 1
    assert store.forget("nobody") == 0


def test_old_events_are_pruned_whenever_they_came(store: StateStore) -> None:
    times = [5 * HOUR, HOUR, 2 * HOUR - 1, 2 * HOUR, 2 * HOUR + 600_000, 0]
    store.add_events([event(n, "impression", at=at) for n, at in enumerate(times)])
    upto = store.latest()
    assert store.prune(2 * HOUR + 300_000, 0) == 4
    assert store.prune(2 * HOUR + 300_000, 0) == 0
    assert [each.at for each in kept(store)] == [5 * HOUR, 2 * HOUR + 600_000]
    assert store.activity("ann", ALL, 10, 0, 0).seen == codes("v0", "v1", "v2", "v3", "v4", "v5")  # for longer than the events
    assert store.traffic(0, HOUR) == [Traffic(2 * HOUR, 1, 0), Traffic(5 * HOUR, 1, 0)]
    assert store.prune(9 * HOUR, 0) == 2
    assert (kept(store), store.traffic(0, HOUR), store.latest()) == ([], [], upto)
    store.add_events([event(1)])
    assert store.latest() == upto + 1  # the numbers of deleted events are not given again


def test_a_large_prune_is_done_in_steps(store: StateStore) -> None:
    events = [event(n, "impression", at=n) for n in range(12_000)]
    for start in range(0, len(events), 1000):
        store.add_events(events[start : start + 1000])
    assert store.prune(11_990, 0) == 11_990
    assert len(kept(store)) == 10


def test_what_a_log_does_not_hold(store: StateStore) -> None:
    assert store.since(5000) == Since(0, 5000)
    store.exported(upto=10, newest_at=1000)
    store.exported(upto=30, newest_at=3000)
    assert store.since(999) == Since(0, 999)
    assert store.since(1000) == store.since(2999) == Since(10, 0)
    assert store.since(3000) == Since(30, 0)


def test_an_export_is_known_by_its_number(store: StateStore) -> None:
    """The second export brought only clicks: it ends at the same time, and a log that has only the first lacks them."""
    store.exported(upto=10, newest_at=1000)
    store.exported(upto=30, newest_at=1000)
    assert store.since(1000, 10) == store.since(1000, 29) == Since(10, 0)
    assert store.since(1000, 30) == Since(30, 0)
    assert store.since(1000, 9) == Since(0, 1000)


# --- new videos ---


def test_added_videos_come_in_the_order_of_their_arrival_and_once_for_each_model(store: StateStore, state: Config) -> None:
    assert store.additions(0) == []
    first = store.add_video("v1", "a", '{"title": "caf\u00e9"}')
    assert first == Addition(1, "v1", "a", '{"title": "caf\u00e9"}')
    second, third = store.add_video("a/b c", "a", "{}"), store.add_video("v1", "b", "other")
    assert store.add_video("v1", "a", "changed") == first  # the first row stays
    assert store.additions(0) == [first, second, third]
    assert store.additions(2) == [third]
    assert store.additions(3) == []
    assert store.additions_of("v1") == [first, third]
    assert store.additions_of("nobody") == []
    again = open_store(state)  # another process, or the next start
    assert again.additions(0) == [first, second, third]
    again.remove_additions([third.number, 77])
    again.close()
    assert store.additions(0) == [first, second]
    assert store.add_video("v1", "b", "anew").number > 3  # no number is given twice


def test_many_threads_add_videos_and_each_gets_a_number_of_its_own(store: StateStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: store.add_video(f"v{n % 20}", "m", str(n)), range(60)))
    numbers = [each.number for each in store.additions(0)]
    assert numbers == sorted({each.number for each in found})
    assert len(numbers) == 20
    assert {each.video_id: each.row for each in found} == {each.video_id: each.row for each in store.additions(0)}


def test_what_has_become_of_an_upload_is_kept_until_it_is_known_or_old(store: StateStore) -> None:
    assert store.upload("v1") is None
    store.note_upload("v1", Upload(1000, None))
    store.note_upload("v/2", Upload(9000, None))
    store.note_upload("v/2", Upload(9000, "the file is empty"))
    assert (store.upload("v1"), store.upload("v/2")) == (Upload(1000, None), Upload(9000, "the file is empty"))
    assert store.prune(5000, 0) == 0
    assert (store.upload("v1"), store.upload("v/2")) == (None, Upload(9000, "the file is empty"))
    store.note_upload("v/2", None)
    assert store.upload("v/2") is None


def test_no_kind_of_ones_own_can_be_one_of_these() -> None:
    assert set(store_module.KINDS) <= set(TAKEN)
