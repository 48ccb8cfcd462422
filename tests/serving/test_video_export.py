"""Videos that were added go back to the catalog, and the next `ingest` has them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import Config, ConfigError, load
from rayrec.serving.additions import AddedVideo
from rayrec.serving.state.opening import open_store
from rayrec.serving.video_export import export_videos
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace


def add(config: Config, video_id: str, model: str = "m", **facts: object) -> int:
    store = open_store(config)
    found = store.add_video(video_id, model, AddedVideo({"video_id": video_id} | facts).to_json())
    store.close()
    return found.number


def test_the_file_has_each_video_once_and_keeps_those_of_earlier_exports(state: Config, tmp_path: Path) -> None:
    first = add(state, "n1", title="Rain", tags=["wet"], uri="/m/n1.mp4", published_at=5, duration_s=1.5)
    add(state, "n1", "another model", title="Rain", tags=["wet"], uri="/m/n1.mp4", published_at=5, duration_s=1.5)
    done = export_videos(state, str(tmp_path / "out"))
    assert (done.new, done.videos, done.path) == (1, 1, str(tmp_path / "out" / "catalog.parquet"))
    store = open_store(state)
    store.remove_additions([first, first + 1])
    store.close()
    add(state, "n2", uri="/m/n2.mp4")
    assert export_videos(state, str(tmp_path / "out"))[:2] == (1, 2)
    assert export_videos(state, str(tmp_path / "out"))[:2] == (0, 2)
    rows = pq.read_table(tmp_path / "out" / "catalog.parquet").to_pylist()
    assert [(row["video_id"], row["title"], row["tags"], row["duration_s"]) for row in rows] == [
        ("n1", "Rain", ["wet"], 1.5),
        ("n2", None, None, None),
    ]


def test_without_any_video_there_is_nothing_to_export(state: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing to export"):
        export_videos(state, str(tmp_path / "out"))


def config_of(folder: Path, *settings: str) -> Config:
    return load(None, [f"workspace={folder / 'workspace'}", *settings])


def write_own(folder: Path) -> None:
    (folder / "media").mkdir(exist_ok=True)
    columns = {"id": ["v1"], "file": ["one.mp4"], "labels": ["a;b"]}
    pq.write_table(pa.table(columns), folder / "catalog.parquet")
    log = {"user_id": ["ann"] * 2, "video_id": ["v1", "n1"], "shown_at": [1_700_000_000_000] * 2, "clicked": [True, False]}
    pq.write_table(pa.table(log), folder / "log.parquet")


@pytest.mark.parametrize("confined", [False, True])
def test_ingest_reads_it_beside_the_users_own_catalog(tmp_path: Path, confined: bool) -> None:
    write_own(tmp_path)
    columns = "catalog_columns: {video_id: id, uri: file, tags: labels}, list_separator: ;"
    root = f", media_root: {tmp_path / 'media'}" if confined else ""
    catalog = f"[{tmp_path}/catalog.parquet, {tmp_path}/more/catalog.parquet]"
    config = config_of(
        tmp_path, f"dataset={{kind: files, catalog: {catalog}, interactions: {tmp_path}/log.parquet, {columns}{root}}}"
    )
    add(config, "n1", title="Rain; and wind", tags=["x;y"], uri=str(tmp_path / "media" / "sub" / "n1.mp4"), author_id="bob")
    export_videos(config, str(tmp_path / "more"))
    run_stage(Workspace(config.workspace), load_stage("ingest"), config)
    rows = Workspace(config.workspace).read("catalog").to_pylist()
    found = {row["video_id"]: (row["uri"], row["title"], row["tags"], row["author_id"]) for row in rows}
    own = str(tmp_path / "media" / "one.mp4") if confined else str(tmp_path / "one.mp4")
    assert found == {
        "v1": (own, None, ["a", "b"], None),
        "n1": (str(tmp_path / "media" / "sub" / "n1.mp4"), "Rain; and wind", ["x;y"], "bob"),
    }
    assert Workspace(config.workspace).read("interactions").num_rows == 2


def test_a_file_that_ingest_would_reject_is_an_error(tmp_path: Path) -> None:
    write_own(tmp_path)
    dataset = f"dataset={{kind: files, catalog: {tmp_path}/catalog.parquet, media_root: {tmp_path}/media}}"
    config = config_of(tmp_path, dataset)
    add(config, "n1", uri=str(tmp_path / "elsewhere" / "n1.mp4"))
    with pytest.raises(ConfigError, match=r"elsewhere/n1\.mp4 is outside of dataset\.media_root"):
        export_videos(config, str(tmp_path / "more"))
