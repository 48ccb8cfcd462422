"""Where views are reported, only what came into view becomes a row of the log, at the time of its view."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, with_values
from rayrec.serving.state.export import DAY, Export, export_events
from rayrec.serving.state.opening import open_store
from rayrec.serving.state.store import Event
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace
from tests.serving.state.test_export import NOON, SECOND, add, answer, rows, shown


def at_time(monkeypatch: pytest.MonkeyPatch, now: int) -> None:
    monkeypatch.setattr("rayrec.serving.state.export.time", SimpleNamespace(time=lambda: now / 1000))


@pytest.fixture(autouse=True)
def next_day(monkeypatch: pytest.MonkeyPatch) -> None:
    at_time(monkeypatch, NOON + 2 * DAY)


@pytest.fixture
def reported(state: Config) -> Config:
    return with_values(state, {"serving.views": "reported"})


def page(number: int, user: str = "ann", at: int = NOON, videos: int = 4) -> list[Event]:
    """A page of videos v0, v1, ..."""
    return [
        shown(f"i{number}-{place}", user, f"v{place}", at, f"r{number}", context='{"device":"tv"}')._replace(
            position=place, page_number=number, session_id="s"
        )
        for place in range(videos)
    ]


def view(number: int, place: int, at: int, dwell_s: float | None = None, user: str = "ann") -> Event:
    return Event(f"w{number}-{place}-{at}", user, f"v{place}", "view", at, f"r{number}", dwell_s=dwell_s)


def log(folder: Path) -> list[tuple[str, int, int, bool]]:
    return [(row["video_id"], row["shown_at"], row["delivered_at"], row["clicked"]) for row in rows(folder)]


def unseen(folder: Path) -> list[str]:
    return [row["video_id"] for path in sorted(folder.glob("_unseen-*")) for row in pq.read_table(path).to_pylist()]


def test_only_what_was_seen_becomes_rows_with_its_place_and_time(reported: Config, tmp_path: Path) -> None:
    add(reported, *page(1), view(1, 0, NOON + SECOND), view(1, 0, NOON + SECOND + 9, 3.5), view(1, 1, NOON + 5 * SECOND, 0.5))
    add(reported, answer("s1", "ann", "v2", "skip", NOON + 6 * SECOND, "r1"))  # which implies a view
    assert export_events(reported, str(tmp_path)) == Export(events=8, impressions=3, days=1, waiting=0, upto=8)
    found = rows(tmp_path)
    assert [(row["video_id"], row["shown_at"], row["position"], row["dwell_s"]) for row in found] == [
        ("v0", NOON + SECOND, 0, 3.5),
        ("v1", NOON + 5 * SECOND, 1, 0.5),
        ("v2", NOON + 6 * SECOND, 2, None),
    ]
    assert {(row["page_number"], row["session_id"], row["delivered_at"], row["context"]) for row in found} == {
        (1, "s", NOON, '{"device":"tv"}')
    }
    assert [row["skipped"] for row in found] == [False, False, True]
    assert unseen(tmp_path) == ["v3"]


def test_a_view_may_come_with_a_later_export_and_on_a_later_day(reported: Config, tmp_path: Path) -> None:
    add(reported, *page(1), *page(2, "bob"))
    assert export_events(reported, str(tmp_path)).impressions == 0
    assert (rows(tmp_path), len(unseen(tmp_path))) == ([], 8)
    add(reported, view(1, 3, NOON + DAY), answer("c1", "bob", "v1", "click", NOON + 2 * SECOND))
    assert export_events(reported, str(tmp_path)) == Export(2, 2, 1, 0, 10)
    assert log(tmp_path) == [("v1", NOON + 2 * SECOND, NOON, True), ("v3", NOON + DAY, NOON, False)]
    assert sorted(unseen(tmp_path)) == ["v0", "v0", "v1", "v2", "v2", "v3"]
    add(reported, view(1, 3, NOON + 60 * SECOND))  # an earlier view that came later
    export_events(reported, str(tmp_path))
    assert log(tmp_path)[1] == ("v3", NOON + 60 * SECOND, NOON, False)
    assert export_events(reported, str(tmp_path)) == Export(0, 0, 0, 0, 11)


def test_a_slow_clock_dates_no_view_before_the_delivery(reported: Config, tmp_path: Path) -> None:
    add(reported, *page(1), view(1, 2, NOON - 3600 * SECOND))
    export_events(reported, str(tmp_path))
    assert log(tmp_path) == [("v2", NOON, NOON, False)]


def test_an_export_that_was_killed_between_two_files_is_repaired_by_the_next(reported: Config, tmp_path: Path) -> None:
    """A row is in its new file before it is taken out of the old one; the state file comes last."""
    folder, before = tmp_path / "log", tmp_path / "before"
    add(reported, *page(1))
    export_events(reported, str(folder))
    shutil.copytree(folder, before)
    add(reported, view(1, 1, NOON + SECOND))
    export_events(reported, str(folder))
    for name in ("_export.parquet", "_unseen-2024-10-04.parquet"):
        shutil.copy(before / name, folder / name)
    export_events(reported, str(folder))
    assert log(folder) == [("v1", NOON + SECOND, NOON, False)]
    assert sorted(unseen(folder)) == ["v0", "v2", "v3"]


def test_a_forgotten_user_is_gone_also_where_nothing_was_seen(reported: Config, tmp_path: Path) -> None:
    add(reported, *page(1), *page(2, "bob"), view(1, 0, NOON + SECOND), view(2, 0, NOON + SECOND, user="bob"))
    export_events(reported, str(tmp_path))
    store = open_store(reported)
    store.forget("ann")
    store.close()
    export_events(reported, str(tmp_path))
    assert [row["user_id"] for row in rows(tmp_path)] == ["bob"]
    assert unseen(tmp_path) == ["v1", "v2", "v3"]


def test_what_was_never_seen_is_deleted_in_the_end(reported: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(reported, *page(1), *page(2, at=NOON + DAY))
    at_time(monkeypatch, NOON + 15 * DAY)
    export_events(reported, str(tmp_path))
    assert [path.name for path in tmp_path.glob("_unseen-*")] == ["_unseen-2024-10-05.parquet"]


def test_a_folder_of_deliveries_goes_on_with_views(state: Config, reported: Config, tmp_path: Path) -> None:
    """What was delivered before the change counts as it did then, also in files without the time of the delivery."""
    add(state, *page(1, videos=2))
    export_events(state, str(tmp_path))
    (day,) = tmp_path.glob("2*.parquet")
    pq.write_table(pq.read_table(day, partitioning=None).drop_columns(["delivered_at", "position"]), day)
    add(reported, *page(2, at=NOON + SECOND), view(2, 3, NOON + 9 * SECOND), answer("c", "ann", "v0", "click", NOON + 99, "r1"))
    export_events(reported, str(tmp_path))
    assert log(tmp_path) == [("v0", NOON, NOON, True), ("v1", NOON, NOON, False), ("v3", NOON + 9 * SECOND, NOON + SECOND, False)]


def test_the_next_log_has_no_row_that_nobody_saw(reported: Config, tmp_path: Path) -> None:
    folder, workspace = tmp_path / "log", Workspace(tmp_path / "space")
    add(reported, *page(1), view(1, 0, NOON + SECOND), view(1, 2, NOON + 2 * SECOND, 1.5))
    export_events(reported, str(folder))
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("video_id\nv0\nv1\nv2\nv3\n")
    files = {"kind": "files", "catalog": str(catalog), "interactions": str(folder)}
    run_stage(workspace, load_stage("ingest"), with_values(reported, {"workspace": workspace.uri, "dataset": files}))
    found = workspace.read("interactions").to_pylist()
    assert [(row["video_id"], row["shown_at"], row["position"]) for row in found] == [
        ("v0", NOON + SECOND, 0),
        ("v2", NOON + 2 * SECOND, 2),
    ]
    assert found[0]["device"] == "tv"
