"""Bad input: every good row goes on, each bad one is in `rejects` with its file, row, stage and reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rayrec.config import Config, FilesData, load
from rayrec.datasets.screening import SourceTable, resolve_uris
from rayrec.datasets.time_order import in_time_order
from rayrec.tables import TableError, from_columns
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Workspace, WorkspaceError

Ingest = Callable[..., Workspace]
Written = Callable[[str, str | bytes], str]
CATALOG = "video_id,title,tags\nv1,One,a|b\nv2,Two,b\n"
LOG = "user_id,video_id,shown_at,clicked\nu1,v1,1700000001000,1\nu1,v2,1700000002000,0\nu2,v1,1700000003000,0\n"
LONG_TITLE = ("🎬 שלום עולם مرحبا " * 700)[:10_000].strip()


@pytest.fixture
def files(written: Written) -> Callable[..., FilesData]:
    def build(catalog: str | bytes = CATALOG, log: str | bytes = LOG, **settings: object) -> FilesData:
        paths = {"catalog": written("data/catalog.csv", catalog), "interactions": written("data/log.csv", log)}
        return FilesData.model_validate({"kind": "files"} | paths | settings)

    return build


def rejects(workspace: Workspace) -> list[tuple[str, int, str]]:
    """(file name, row of data from 0, reason) of every reject, all of the stage `ingest`. The header of each file is row 1."""
    rows = workspace.rejects("ingest").to_pylist()
    assert {row["stage"] for row in rows} <= {"ingest"}
    return [(Path(row["source"]).name, row["row"] - 2, row["reason"]) for row in rows]


def test_bad_rows_of_a_catalog(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    rows = [
        "video_id,title,published_at,duration_s",
        f'v1,"{LONG_TITLE}",1700000001000,3.5',
        "v1,again,,",
        ",nameless,,",
        "v2,NaN,1700000001000,nan",
        'v3,"two\nlines, quoted",,',
        "v4,early,-1,",
        "v5,too,many,cells,here",
        "v6,when?,tomorrow,",
        "v7,,2024-01-01T00:00:00Z,",
    ]
    workspace = ingested(files("\n".join(rows) + "\n"))
    catalog = workspace.read("catalog").to_pylist()
    assert [row["video_id"] for row in catalog] == ["v1", "v3", "v7"]
    assert catalog[0]["title"] == LONG_TITLE
    assert len(LONG_TITLE) > 9_000
    assert catalog[1]["title"] == "two\nlines, quoted"
    found = {row: reason for name, row, reason in rejects(workspace) if name == "catalog.csv"}
    assert found.keys() == {1, 2, 3, 5, 6, 7}
    assert "'v1' repeats the key" in found[1]
    assert found[2] == "video_id is empty"
    assert "duration_s: 'nan' is not a finite number" in found[3]
    assert "published_at: '-1' is of before 1990 or after tomorrow, whether it is read as s, ms or us" in found[5]
    assert "has 5 cells, the table 4 columns: 'v5,too,many" in found[6]
    assert "published_at: 'tomorrow' is not a time" in found[7]


def test_bad_rows_of_a_log(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    rows = [
        b"user_id,video_id,shown_at,clicked,watch_s",
        b"u1,v2,1700000005000,1,3",
        b"u1,v9,1700000005000,1,3",
        b"u1,v1,noon,1,3",
        b"u1,v1,1700000003000,maybe,3",
        b"u1,v1,1700000003000,0,nan",
        b"u1,v1,1700000003000,0,-1",
        b"u\xe9,v1,1700000003000,0,",
        b",v1,1700000003000,0,",
        b"u1,v1,,0,",
        b"u1,v1",
        b"u1,v1,1700000001000,0,",
        b"u1,v1,1700000001000,0,",
    ]
    workspace = ingested(files(log=b"\n".join(rows)))
    log, at = workspace.read("interactions").to_pylist(), 1_700_000_001_000
    assert [(row["video_id"], row["shown_at"]) for row in log] == [("v1", at), ("v1", at), ("v2", at + 4000)]  # in time order
    found = {row: reason for name, row, reason in rejects(workspace)}
    assert found.keys() == set(range(1, 10))
    assert found[1] == "video_id: 'v9' is not in the catalog"
    assert "shown_at: 'noon' is not a time" in found[2]
    assert "clicked: 'maybe'" in found[3]
    assert "watch_s: 'nan'" in found[4]
    assert "watch_s: '-1.0' is below 0" in found[5]
    assert "user_id: b'u\\xe9' is not UTF-8" in found[6] or "not UTF-8" in found[6]
    assert found[7] == "user_id is empty"
    assert found[8] == "shown_at is empty"
    assert "has 2 cells" in found[9]
    manifest = workspace.manifest("ingest")
    assert manifest is not None
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (14, 5, 9)


def test_an_impression_of_a_rejected_video_says_so(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    workspace = ingested(files("video_id,duration_s\nv1,nan\nv2,1\n"))
    assert ("log.csv", 0, "video_id: 'v1' was rejected from the catalog") in rejects(workspace)
    assert workspace.read("interactions")["video_id"].to_pylist() == ["v2"]


def test_a_bad_row_takes_no_key(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    workspace = ingested(files("video_id,duration_s\nv1,nan\nv1,1\nv1,2\nv2,3\n"))
    assert workspace.read("catalog")["duration_s"].to_pylist() == [1, 3]
    assert [(row, reason) for name, row, reason in rejects(workspace) if name == "catalog.csv"] == [
        (0, "duration_s: 'nan' is not a finite number"),
        (2, "video_id: 'v1' repeats the key (video_id) of an earlier row"),
    ]


def test_rows_shown_at_once_stay_with_their_request_and_in_its_order() -> None:
    columns = {
        "user_id": list("aabbab"),
        "video_id": ["1", "2", "3", "4", "5", "6"],
        "shown_at": [9, 5, 5, 5, 5, 1],
        "clicked": [False] * 6,
        "request_id": ["r9", "ra", "rb", None, "ra", "rb"],
    }
    ordered = in_time_order(from_columns("interactions", columns))
    # rb's first row stands second in the file; the row without a request keeps its own place.
    assert ordered["video_id"].to_pylist() == ["6", "2", "5", "3", "4", "1"]


def test_too_many_bad_rows_fail_the_stage_and_say_where_to_look(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    sentence = r"(?s)1 of 5 rows are bad \(10% are allowed.*log.csv, row 3: video_id: 'v2' is not in the catalog\n.*rejects"
    with pytest.raises(WorkspaceError, match=sentence):
        ingested(files("video_id\nv1\n", LOG + "u3,v1,1700000000000,0\n"), max_rejects=0.1)
    with pytest.raises(WorkspaceError, match="5 of 5 rows are bad"):
        ingested(files("video_id,duration_s\nv1,nan\nv2,nan\n"))
    with pytest.raises(TableError, match=r"catalog.csv: the catalog has no rows"):
        ingested(files("video_id\n"))


@pytest.mark.parametrize("place", ["~no-such-user/c.csv", "foo://x/c.csv", "x" * 300 + ".csv", "a\0b.csv"])
def test_a_place_that_cannot_be_opened_is_named(ingested: Ingest, files: Callable[..., FilesData], place: str) -> None:
    for key in ("catalog", "interactions"):
        with pytest.raises(TableError, match=f"^{place} can't be opened"):
            ingested(files().model_copy(update={key: place}))


def test_a_media_root_that_cannot_be_opened_is_named(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    dataset = files("video_id,uri\nv1,a.mp4\n").model_copy(update={"media_root": "~no-such-user/x"})
    with pytest.raises(TableError, match=r"media_root: '~no-such-user/x' can't be opened"):
        ingested(dataset)


def test_a_catalog_without_a_log_is_enough(ingested: Ingest, files: Callable[..., FilesData]) -> None:
    workspace = ingested(files(log="user_id,video_id,shown_at,clicked\n"))
    assert (workspace.read("catalog").num_rows, workspace.read("interactions").num_rows) == (2, 0)
    assert not workspace.has("users")


def test_a_changed_file_redoes_the_stage(tmp_path: Path, ingest_stage: Stage, files: Callable[..., FilesData]) -> None:
    config = Config(dataset=files(), workspace=str(tmp_path / "w"))
    workspace = Workspace(config.workspace)
    assert [run_stage(workspace, ingest_stage, config)[1] for _ in range(2)] == [True, False]
    files(CATALOG + "v3,Three,c\n")
    assert run_stage(workspace, ingest_stage, config)[1]
    assert workspace.read("catalog").num_rows == 3


def test_relative_media_start_at_the_catalog_or_at_media_root(
    ingested: Ingest, files: Callable[..., FilesData], tmp_path: Path
) -> None:
    catalog = "video_id,uri\nv1,clips/a.mp4\nv2,/elsewhere/b.mp4\nv3,s3://bucket/c.mp4\nv4,\n"
    placed = ingested(files(catalog)).read("catalog")["uri"].to_pylist()
    assert placed == [f"{tmp_path}/data/clips/a.mp4", "/elsewhere/b.mp4", "s3://bucket/c.mp4", None]
    workspace = ingested(files(catalog, media_root=f"{tmp_path}/media"))
    assert workspace.read("catalog")["uri"].to_pylist() == [f"{tmp_path}/media/clips/a.mp4", None]
    assert [(row, "is absolute; with `media_root`" in reason) for name, row, reason in rejects(workspace) if "uri" in reason] == [
        (1, True),
        (2, True),
    ]


def test_covers_are_placed_as_media_are(ingested: Ingest, files: Callable[..., FilesData], tmp_path: Path) -> None:
    catalog = "video_id,uri,cover_uri\nv1,a.mp4,covers/a.jpg\nv2,b.mp4,https://host/b.jpg?v=1\nv3,c.mp4,\nv4,d.mp4,../d.jpg\n"
    workspace = ingested(files(catalog))
    placed = workspace.read("catalog")["cover_uri"].to_pylist()
    assert placed == [f"{tmp_path}/data/covers/a.jpg", "https://host/b.jpg?v=1", None]
    (reason,) = (reason for _, _, reason in rejects(workspace) if "uri" in reason)
    assert reason.startswith("cover_uri: '../d.jpg' leads out of")


@pytest.mark.parametrize("uri", ["../secret", "a/../../secret", "a/../..", ".", "", "a\0b"])
@pytest.mark.parametrize("root", ["/media", "s3://bucket/media"])
@pytest.mark.parametrize("confined", [True, False])
def test_no_uri_leads_out_of_the_media_root(uri: str, root: str, confined: bool) -> None:
    catalog = SourceTable.of("catalog.csv", from_columns("catalog", {"video_id": ["v1", "v2"], "uri": [uri, "a/./b/../c.mp4"]}))
    resolve_uris(catalog, "uri", root, confined)
    assert catalog.table["uri"].to_pylist() == [f"{root}/a/c.mp4"]
    assert catalog.rejects["id"].to_pylist() == ["v1"]


def test_a_remote_root_sees_through_percent_signs_and_keeps_its_query() -> None:
    columns = {"video_id": ["v1", "v2"], "uri": ["%2e%2e/x.mp4", "x.mp4"]}
    catalog = SourceTable.of("catalog.csv", from_columns("catalog", columns))
    resolve_uris(catalog, "uri", "s3://bucket/media?region=eu-west-1", confined=True)
    assert catalog.table["uri"].to_pylist() == ["s3://bucket/media/x.mp4?region=eu-west-1"]


@pytest.mark.parametrize("name", ["demo", "movielens", "files", "splits", "youtube"])
def test_the_configs_that_come_along_can_be_read(name: str) -> None:
    config = load(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    assert config.dataset.kind == ("world" if name == "demo" else name)
