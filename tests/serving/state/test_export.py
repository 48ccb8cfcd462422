"""The loop from events to the next training's log, over both stores."""

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.serving.state.export import DAY, DRAWN, Export, export_events
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event, Kind, Since
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

NOON = 20_000 * DAY + DAY // 2  # 2024-10-04
SECOND = 1000
Row = tuple[str, str, int, bool]


def shown(
    name: str, user: str, video: str, at: int, request: str | None = "r1", arm: str | None = None, context: str | None = None
) -> Event:
    return Event(name, user, video, "impression", at, request, arm=arm, context=context)


def answer(
    name: str, user: str, video: str, kind: Kind, at: int, request: str | None = None, watch_s: float | None = None
) -> Event:
    return Event(name, user, video, kind, at, request, watch_s)


def add(state: Config, *events: Event) -> None:
    store = open_store(state)
    store.add_events(events)
    store.close()


def rows(folder: Path) -> list[dict]:
    paths = sorted(path for path in folder.glob("*.parquet") if path.name[0] != "_")
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def clicks(folder: Path) -> dict[tuple[str, str, int], bool]:
    return {(row["user_id"], row["video_id"], row["shown_at"]): row["clicked"] for row in rows(folder)}


def test_what_came_of_an_impression_is_joined_to_it(state: Config, tmp_path: Path) -> None:
    add(
        state,
        shown("i1", "ann", "v1", NOON, "r1", arm="canary", context='{"device":"phone"}'),
        shown("i2", "ann", "v2", NOON, "r1", arm="canary"),
        shown("i3", "bob", "v1", NOON, "r2"),
        answer("c1", "ann", "v1", "click", NOON + 5 * SECOND, "r1"),
        answer("w1", "ann", "v1", "watch", NOON + 9 * SECOND, "r1", watch_s=3.5),
        answer("w2", "ann", "v1", "watch", NOON + 12 * SECOND, "r1", watch_s=6.5),
        answer("l1", "ann", "v1", "like", NOON + 9 * SECOND, "r1"),
        answer("s1", "ann", "v2", "skip", NOON + 20 * SECOND, "r1"),
    )
    done = export_events(state, str(tmp_path / "log"))
    assert done == Export(events=8, impressions=3, days=1, waiting=0, upto=8)
    assert [path.name for path in sorted((tmp_path / "log").iterdir())] == ["2024-10-04.parquet", "_export.parquet"]
    done = ("clicked_at", "watched_at", "liked_at", "skipped_at")
    never = dict.fromkeys((*done, "context", "position", "page_number", "session_id", "dwell_s", *DRAWN))
    never["delivered_at"] = NOON
    ann = never | {"user_id": "ann", "shown_at": NOON, "request_id": "r1", "arm": "canary", "export": 8}
    first = {"clicked_at": NOON + 5 * SECOND, "watched_at": NOON + 12 * SECOND, "liked_at": NOON + 9 * SECOND}
    said = {"context": '{"device":"phone"}'}
    assert rows(tmp_path / "log") == [
        ann | first | said | {"video_id": "v1", "clicked": True, "watch_s": 6.5, "liked": True, "skipped": False},
        ann
        | {"video_id": "v2", "clicked": False, "watch_s": None, "liked": False, "skipped": True, "skipped_at": NOON + 20 * SECOND},
        never
        | {"user_id": "bob", "video_id": "v1", "shown_at": NOON, "request_id": "r2", "arm": None, "export": 8}
        | {"clicked": False, "watch_s": None, "liked": False, "skipped": False},
    ]


def test_how_a_video_came_to_its_place_is_kept_with_its_impression(state: Config, tmp_path: Path) -> None:
    """Also when clicks come in a later export, and beside a file of a version that knew no odds."""
    among = '{"among":["v1","v\u00e9"],"propensity":0.0123456789012345}'
    add(state, shown("i0", "eve", "v9", NOON - DAY))
    export_events(state, str(tmp_path))
    (old,) = tmp_path.glob("2*.parquet")
    pq.write_table(pq.read_table(old, partitioning=None).drop_columns(list(DRAWN)), old)
    add(
        state,
        shown("i1", "ann", "v7", NOON)._replace(draw='{"propensity":1.0}'),
        shown("i2", "ann", "v1", NOON)._replace(draw=among),
        shown("i3", "bob", "v7", NOON),
    )
    export_events(state, str(tmp_path))
    add(state, answer("c1", "ann", "v1", "click", NOON + 1, "r1"), answer("c0", "eve", "v9", "click", NOON - DAY + 1))
    export_events(state, str(tmp_path))
    assert {(row["user_id"], row["video_id"]): tuple(row[name] for name in ("clicked", *DRAWN)) for row in rows(tmp_path)} == {
        ("eve", "v9"): (True, None, None),
        ("ann", "v7"): (False, 1.0, None),
        ("ann", "v1"): (True, 0.0123456789012345, '["v1", "vé"]'),
        ("bob", "v7"): (False, None, None),
    }


def test_a_video_counts_as_clicked_from_the_first_click_on(state: Config, tmp_path: Path) -> None:
    """Also where clicks arrive out of order and in several exports, into a file that an earlier version wrote without times."""
    add(state, shown("i1", "ann", "v1", NOON), answer("c1", "ann", "v1", "click", NOON + 9 * SECOND, "r1"))
    export_events(state, str(tmp_path))
    (day,) = tmp_path.glob("2*.parquet")
    assert [row["clicked_at"] for row in rows(tmp_path)] == [NOON + 9 * SECOND]
    old = pq.read_table(day, partitioning=None).drop_columns(["clicked_at", "watched_at", "liked_at", "skipped_at"])
    pq.write_table(old, day)
    for number, seconds in enumerate((7, 5, 8)):
        add(state, answer(f"d{number}", "ann", "v1", "click", NOON + seconds * SECOND, "r1"))
        export_events(state, str(tmp_path))
    assert [row["clicked_at"] for row in rows(tmp_path)] == [NOON + 5 * SECOND]


def test_without_its_request_a_click_is_for_the_users_latest_impression_before_it(state: Config, tmp_path: Path) -> None:
    add(
        state,
        shown("i1", "ann", "v1", NOON, "r1"),
        shown("i2", "ann", "v1", NOON + 60 * SECOND, "r2"),
        shown("i3", "ann", "v1", NOON + 120 * SECOND, "r3"),
        shown("i4", "bob", "v1", NOON + 70 * SECOND, "r4"),
        answer("c1", "ann", "v1", "click", NOON + 100 * SECOND),
        answer("c2", "ann", "v1", "click", NOON + 130 * SECOND, "r1"),  # names the first, long gone from the screen
        answer("c3", "bob", "v1", "click", NOON + 75 * SECOND, "unknown"),
    )
    export_events(state, str(tmp_path))
    assert clicks(tmp_path) == {
        ("ann", "v1", NOON): True,
        ("ann", "v1", NOON + 60 * SECOND): True,
        ("ann", "v1", NOON + 120 * SECOND): False,
        ("bob", "v1", NOON + 70 * SECOND): True,
    }


def test_an_export_goes_on_from_the_last_and_rewrites_only_the_days_that_changed(state: Config, tmp_path: Path) -> None:
    log = tmp_path / "log"
    add(state, *(shown(f"i{n}", "ann", f"v{n}", NOON + n * DAY, f"r{n}") for n in range(3)))
    assert export_events(state, str(log)) == Export(3, 3, 3, 0, 3)
    before = {path.name: path.stat().st_mtime_ns for path in log.iterdir()}
    add(
        state,
        answer("c1", "ann", "v1", "click", NOON + DAY + SECOND, "r1"),
        answer("c2", "ann", "v1", "click", NOON + 2 * DAY),  # a day after it was shown
        shown("late", "bob", "v0", NOON + DAY - 1, "r9"),
    )
    assert export_events(state, str(log)) == Export(3, 1, 1, 0, 6)
    after = {path.name: path.stat().st_mtime_ns for path in log.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"2024-10-05.parquet", "_export.parquet"}
    assert [at for (_, _, at), clicked in clicks(log).items() if clicked] == [NOON + DAY]
    assert export_events(state, str(log)) == Export(0, 0, 0, 0, 6)


def test_a_folder_with_the_narrower_text_of_earlier_versions_goes_on(state: Config, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    add(state, shown("i1", "ann", "v1", NOON), shown("i2", "bob", "v1", NOON + DAY))
    export_events(state, str(folder))
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        narrow = [pa.string() if field.type == pa.large_string() else field.type for field in table.schema]
        schema = pa.schema(list(zip(table.column_names, narrow, strict=True)), table.schema.metadata)
        pq.write_table(table.cast(schema), path)
    add(state, shown("i3", "ann", "v2", NOON + SECOND), answer("c1", "bob", "v1", "click", NOON + DAY + SECOND))
    export_events(state, str(folder))
    assert clicks(folder) == {("ann", "v1", NOON): False, ("ann", "v2", NOON + SECOND): False, ("bob", "v1", NOON + DAY): True}


def test_rows_say_which_export_they_come_from_also_beside_those_of_rayrec_0_1(state: Config, tmp_path: Path) -> None:
    add(state, *(shown(f"i{n}", "ann", f"v{n}", NOON + n * DAY, f"r{n}") for n in range(2)))
    export_events(state, str(tmp_path))
    for path in tmp_path.glob("2*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns("export"), path)
    add(state, answer("c1", "ann", "v1", "click", NOON + DAY + SECOND, "r1"), shown("i3", "bob", "v1", NOON + DAY, "r3"))
    export_events(state, str(tmp_path))
    assert [row.get("export") for row in rows(tmp_path)] == [None, 4, 4]


def test_without_events_nothing_is_exported_and_nothing_created(state: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no service has recorded events in this workspace"):
        export_events(state, str(tmp_path / "log"))
    assert not (tmp_path / "log").exists()
    with pytest.raises(ConfigError, match=r"no service has recorded events .*there is no file .*nowhere/state/events.db"):
        export_events(load(None, [f"workspace={tmp_path}/nowhere"]), str(tmp_path / "log"))
    assert not [path for path in tmp_path.rglob("*") if path.name in ("log", "nowhere", "_export.parquet")]


def test_an_export_that_was_killed_is_done_again(state: Config, tmp_path: Path) -> None:
    add(state, shown("i1", "ann", "v1", NOON), answer("c1", "ann", "v1", "click", NOON + SECOND))
    export_events(state, str(tmp_path))
    (tmp_path / "_export.parquet").unlink()  # as if it had died before the end
    assert export_events(state, str(tmp_path)) == Export(2, 0, 0, 0, 2)
    assert len(rows(tmp_path)) == 1


def test_a_click_waits_for_an_impression_that_comes_after_it(state: Config, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    add(state, answer("c1", "ann", "v1", "click", now, "r1"), answer("l1", "ann", "v2", "like", now))
    assert export_events(state, str(tmp_path)) == Export(2, 0, 0, 2, 2)
    add(state, shown("i1", "ann", "v1", now - 5 * SECOND))
    assert export_events(state, str(tmp_path))[:4] == (1, 1, 1, 1)
    assert clicks(tmp_path) == {("ann", "v1", now - 5 * SECOND): True}


def test_a_click_without_an_impression_is_one_in_the_end(state: Config, tmp_path: Path) -> None:
    """Such as a click on a video that another surface showed; a history must not lose it at the next training."""
    add(state, answer("c1", "ann", "v1", "click", NOON), answer("l1", "ann", "v1", "like", NOON))
    assert export_events(state, str(tmp_path)) == Export(2, 1, 1, 0, 2)
    assert clicks(tmp_path) == {("ann", "v1", NOON): True}
    assert [row["clicked_at"] for row in rows(tmp_path)] == [NOON]


def test_the_folder_outlives_retention_and_forgets_with_the_store(state: Config, tmp_path: Path) -> None:
    add(state, shown("i1", "ann", "v1", NOON), shown("i2", "bob", "v1", NOON), shown("i3", "ann", "v2", NOON + DAY))
    export_events(state, str(tmp_path))
    store = open_store(state)
    store.prune(NOON + DAY, 0)
    store.forget("ann")
    store.add_events([shown("i4", "ann", "v3", NOON + 2 * DAY)])  # she came back
    store.close()
    export_events(state, str(tmp_path))
    expected = {("bob", "v1", NOON): False, ("ann", "v3", NOON + 2 * DAY): False}
    assert clicks(tmp_path) == expected
    export_events(state, str(tmp_path))
    assert clicks(tmp_path) == expected


def test_a_folder_that_can_not_be_used_is_named(state: Config, tmp_path: Path) -> None:
    add(state, shown("i1", "ann", "v1", NOON))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/log can't be read or written"):
        export_events(state, str(tmp_path / "file" / "log"))
    (tmp_path / "2024-10-04.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ConfigError, match=r"can't be read or written: .*2024-10-04"):
        export_events(state, str(tmp_path))


def test_a_folder_of_another_store_is_refused(state: Config, tmp_path: Path) -> None:
    other = load(None, [f"serving.state={tmp_path / 'other.db'}"])
    add(other, *(shown(f"i{n}", "ann", "v1", NOON + n) for n in range(5)))
    export_events(other, str(tmp_path / "log"))
    add(state, shown("i1", "ann", "v1", NOON))
    with pytest.raises(ConfigError, match="up to number 5, but the store has only 1: the folder is the export of another store"):
        export_events(state, str(tmp_path / "log"))


def test_the_loop_is_closed(state: Config, tmp_path: Path) -> None:
    """Events -> export -> ingest, beside an old log in other names and units: the clicks are in the log, and count once online."""
    (tmp_path / "catalog.csv").write_text("video_id,title\nv1,One\nv2,Two\n")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "0-old.csv").write_text(
        f"who,what,when,stars\ncat,v1,{NOON // 1000 - 99},5\ncat,v2,{NOON // 1000 - 98},1\n"
    )
    names = "{user_id: who, video_id: what, shown_at: when, clicked: stars}"
    dataset = ["kind=files", f"catalog={tmp_path / 'catalog.csv'}", f"interactions={tmp_path / 'log'}", "time_unit=s"]
    dataset += ["click_at_least=4", f"interactions_columns={names}"]
    loop = load(
        None,
        [f"workspace={tmp_path / 'space'}", f"serving.state={state.serving.state}", *(f"dataset.{each}" for each in dataset)],
    )
    workspace = Workspace(loop.workspace)

    def log() -> list[Row]:
        run_stage(workspace, load_stage("ingest"), loop)
        columns = ["user_id", "video_id", "shown_at", "clicked"]
        return [tuple(row.values()) for row in workspace.read("interactions", columns).to_pylist()]

    old = [("cat", "v1", NOON - 99_000, True), ("cat", "v2", NOON - 98_000, False)]
    assert log() == old
    add(
        state,
        shown("i1", "ann", "v1", NOON),
        shown("i2", "ann", "v2", NOON),
        answer("c1", "ann", "v2", "click", NOON + SECOND, "r1"),
    )
    export_events(loop, str(tmp_path / "log"))
    assert log() == [*old, ("ann", "v1", NOON, False), ("ann", "v2", NOON, True)]
    assert workspace.rejects("ingest").num_rows == 0

    store = open_store(loop)
    since = store.since(log()[-1][2])
    assert since == Since(3, 0)
    assert store.activity("ann", since, 10, 0, 0).clicked == []
    store.add_events([answer("c2", "ann", "v1", "click", NOON - 50 * SECOND)])  # late: happened before the log's end
    assert store.activity("ann", since, 10, 0, 0).clicked == ["v1"]
    store.close()


def test_the_context_of_requests_becomes_columns_of_the_next_log(state: Config, tmp_path: Path) -> None:
    said = '{"device":"phone","liked":"no","page":1.0,"wifi":true}'
    add(state, shown("i1", "ann", "v1", NOON, "r1", context=said), shown("i2", "ann", "v2", NOON + SECOND, "r2"))
    export_events(state, str(tmp_path / "log"))
    add(state, shown("i3", "bob", "v1", NOON + 2 * SECOND, "r3", context='{"device":"tv","page":2}'))
    export_events(state, str(tmp_path / "log"))
    pq.write_table(pa.table({"video_id": ["v1", "v2"]}), tmp_path / "catalog.parquet")
    own = {"user_id": ["old"], "video_id": ["v2"], "shown_at": [NOON - DAY], "clicked": [True], "device": ["desk"]}
    pq.write_table(pa.table(own), tmp_path / "own.parquet")
    files = f"catalog: {tmp_path}/catalog.parquet, interactions: [{tmp_path}/own.parquet, {tmp_path}/log]"
    config = load(None, [f"workspace={tmp_path / 'workspace'}", f"dataset={{kind: files, {files}}}"])
    run_stage(Workspace(config.workspace), load_stage("ingest"), config)
    found = Workspace(config.workspace).read("interactions")
    assert found.select(["user_id", "device", "page", "wifi", "liked"]).to_pylist() == [
        {"user_id": "old", "device": "desk", "page": None, "wifi": None, "liked": None},
        {"user_id": "ann", "device": "phone", "page": 1, "wifi": "true", "liked": False},
        {"user_id": "ann", "device": None, "page": None, "wifi": None, "liked": False},
        {"user_id": "bob", "device": "tv", "page": 2, "wifi": None, "liked": False},
    ]
    assert "context" not in found.column_names


def test_kinds_of_ones_own_become_columns(state: Config, tmp_path: Path) -> None:
    """Also where the config no longer names one of them, and where a user is forgotten."""
    own = with_kinds(state, "share", "comment")
    add(own, *(shown(f"i{n}", user, f"v{n}", NOON) for n, user in enumerate(("ann", "ann", "bob"))))
    add(own, Event("a1", "ann", "v0", "share", NOON + SECOND, "r1"), Event("a2", "ann", "v0", "comment", NOON + 2 * SECOND, "r1"))
    add(own, answer("c1", "ann", "v1", "click", NOON + SECOND, "r1"), Event("a3", "bob", "v2", "comment", NOON + SECOND, "r1"))
    export_events(own, str(tmp_path / "log"))

    def found() -> dict[str, tuple[bool | None, ...]]:
        return {
            row["video_id"]: tuple(row.get(name) for name in ("clicked", "share", "comment", "follow"))
            for row in rows(tmp_path / "log")
        }

    assert found() == {"v0": (False, True, True, None), "v1": (True, False, False, None), "v2": (False, False, True, None)}
    other = with_kinds(state, "follow")
    add(other, answer("c2", "ann", "v0", "click", NOON + 9 * SECOND, "r1"), Event("a4", "ann", "v1", "follow", NOON + SECOND, "r1"))
    export_events(other, str(tmp_path / "log"))
    assert found() == {"v0": (True, True, True, None), "v1": (True, False, False, True), "v2": (False, False, True, None)}
    store = open_store(other)
    assert store.forget("ann") == 7
    store.close()
    export_events(other, str(tmp_path / "log"))
    assert found() == {"v2": (False, False, True, None)}


def with_kinds(state: Config, *kinds: str) -> Config:
    return state.model_copy(update={"serving": state.serving.model_copy(update={"event_kinds": list(kinds)})})
