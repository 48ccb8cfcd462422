import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayrec.config import FilesData, load
from rayrec.datasets.files import EXPORTED, source_of
from rayrec.datasets.source import Damaged, Limits
from rayrec.stages.ingest import ingest
from rayrec.tables import TEXT, TableError
from rayrec.workspace.stage import Stage, run_stage
from rayrec.workspace.versions import Workspace

Ingest = Callable[..., Workspace]
Written = Callable[[str, str | bytes], str]
CATALOG = "video_id,title,tags\nv1,One,a|b\nv2,Two,b\n"
NOW = 1_700_000_000_000
LOG = f"user_id,video_id,shown_at,clicked\nu1,v1,{NOW},1\nu1,v2,{NOW + 1},0\nu2,v1,{NOW + 2},0\n"


def read_table(name: str, settings: FilesData) -> pa.Table:
    """All good rows of a table, before they are screened."""
    (piece,) = source_of(name, settings).pieces
    try:
        blocks = list(piece.blocks(Limits()))
    except Damaged:
        blocks = list(piece.blocks(Limits(), careful=True))
    return pa.concat_tables([block.table for block in blocks], promote_options="default")


def test_csv_and_parquet_with_columns_of_other_names(ingested: Ingest, written: Written, tmp_path: Path) -> None:
    items = {
        "item": [1, 2],
        "name": ["One, two", 'a "b"\nc'],
        "labels": ["x;y", None],
        "added": ["2024-01-01", None],
        "colour": ["r", "g"],
    }
    log = {"who": ["ann", "bob"], "item": [1, 2], "when": [1_700_000_000, 1_700_000_001], "stars": [5, 3], "seconds": [2.5, None]}
    log["device"] = ["tv", None]
    people = {"who": ["ann", "bob"], "years": [31, 27]}
    read = []
    for ending in ("csv", "parquet"):
        for name, columns in (("items", items), ("log", log), ("people", people)):
            frame = pd.DataFrame(columns)
            frame.to_csv(tmp_path / f"{name}.csv", index=False) if ending == "csv" else frame.to_parquet(
                tmp_path / f"{name}.parquet"
            )
        dataset = FilesData(
            kind="files",
            catalog=str(tmp_path / f"items.{ending}"),
            interactions=str(tmp_path / f"log.{ending}"),
            users=str(tmp_path / f"people.{ending}"),
            catalog_columns={"video_id": "item", "title": "name", "tags": "labels", "published_at": "added"},
            interactions_columns={
                "user_id": "who",
                "video_id": "item",
                "shown_at": "when",
                "clicked": "stars",
                "watch_s": "seconds",
            },
            users_columns={"user_id": "who", "age": "years"},
            list_separator=";",
            time_unit="s",
            click_at_least=4,
        )
        workspace = ingested(dataset)
        assert workspace.rejects("ingest").num_rows == 0
        read.append([workspace.read(name).to_pylist() for name in ("catalog", "interactions", "users")])
    catalog, interactions, users = read[0]
    assert catalog[0] | {"video_id": "1", "title": "One, two", "tags": ["x", "y"], "published_at": 1_704_067_200_000} == catalog[0]
    assert catalog[1]["title"] == 'a "b"\nc'
    assert (catalog[1]["tags"], catalog[1]["uri"], catalog[1]["colour"]) == (None, None, "g")
    expected = {
        "user_id": "ann",
        "video_id": "1",
        "shown_at": 1_700_000_000_000,
        "clicked": True,
        "clicked_at": None,
        "watch_s": 2.5,
        "rating": 5.0,
        "request_id": None,
        "propensity": None,
        "device": "tv",
    }
    assert interactions[0] == expected
    assert (interactions[1]["clicked"], interactions[1]["watch_s"]) == (False, None)
    assert users == [{"user_id": "ann", "age": 31}, {"user_id": "bob", "age": 27}]
    assert read[0] == read[1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"catalog": "catalog.xlsx"}, r"catalog.xlsx: tables must be .parquet, .csv or .jsonl files, .* not .xlsx"),
        ({"catalog": "nowhere.csv"}, r"nowhere.csv: there is no such file"),
        ({"catalog": "empty.csv"}, r"empty.csv: not a readable CSV file: Empty"),
        ({"catalog": "text.parquet"}, r"text.parquet: not a readable Parquet file"),
        ({"catalog": "twice.csv"}, r"2 columns are named 'title'"),
        (
            {"catalog": "log.csv", "catalog_columns": {"video_id": "vido_id"}},
            r"'vido_id', which is missing; did you mean 'video_id'",
        ),
        (
            {"catalog_columns": {"titel": "title"}},
            r"dataset.catalog_columns: table catalog has no column 'titel'; did you mean 'title'",
        ),
        (
            {"catalog": "other.csv"},
            r"no column 'video_id'; did you mean 'video'\?; name yours with `dataset.catalog_columns: {video_id:",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(written: Written, settings: dict, sentence: str) -> None:
    contents = {
        "empty.csv": "",
        "text.parquet": "no",
        "twice.csv": "video_id,title,title\n",
        "log.csv": LOG,
        "other.csv": "video,x\n1,2\n",
    }
    paths = {name: written(name, text) for name, text in ({"catalog.csv": CATALOG, "catalog.xlsx": "?"} | contents).items()}
    catalog = settings.get("catalog", "catalog.csv")
    dataset = FilesData.model_validate(
        {"kind": "files", "interactions": paths["log.csv"]} | settings | {"catalog": paths.get(catalog, catalog)}
    )
    with pytest.raises(TableError, match=sentence):
        read_table("catalog", dataset)


def test_a_column_of_the_user_never_shadows_a_mapped_one(written: Written) -> None:
    users = written("users.csv", "user_id,uid,age\n1,ann,30\n")
    log = written("log.csv", LOG)
    dataset = FilesData(kind="files", catalog=log, interactions=log, users=users, users_columns={"user_id": "uid"})
    assert read_table("users", dataset).to_pylist() == [{"user_id": "ann", "age": "30"}]  # a number once all files are read


def test_a_table_of_embeddings_and_categories_is_no_obstacle(tmp_path: Path) -> None:
    table = pa.table(
        {
            "video_id": pa.array(["a", "b", "a"]).dictionary_encode(),
            "title": pa.array(["x", None, "y"], pa.large_string()),
            "tags": pa.array([["p"], None, []], pa.large_list(pa.string())),
            "vector": pa.array([[1.0], [2.0], None]),
        }
    )
    pq.write_table(table, tmp_path / "catalog.parquet")
    dataset = FilesData(kind="files", catalog=str(tmp_path / "catalog.parquet"), interactions="none.csv")
    rows = read_table("catalog", dataset).to_pylist()
    assert rows[0] == {"video_id": "a", "title": "x", "tags": ["p"], "vector": [1.0]}  # side columns are kept


def test_a_folder_of_videos_is_a_catalog(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MOV", "deep/c.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"-")
    config = load(None, ["dataset.kind=files", f"dataset.catalog={tmp_path}", f"workspace={tmp_path / 'space'}"])
    workspace = Workspace(config.workspace)
    run_stage(workspace, Stage("ingest", ingest, writes=("catalog", "interactions", "users")), config)
    catalog = workspace.read("catalog")
    assert catalog["video_id"].to_pylist() == ["a", "b", "deep/c"]
    assert catalog["uri"].to_pylist() == [str(tmp_path / name) for name in ("a.MOV", "b.mp4", "deep/c.webm")]
    assert workspace.read("interactions").num_rows == 0


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    with pytest.raises(TableError, match="media: the folder contains no video"):
        read_table("catalog", load(None, ["dataset.kind=files", f"dataset.catalog={tmp_path / 'media'}"]).dataset)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder as `rayrec events export` leaves it."""
    for day, arm in ((1, None), (2, "canary")):
        log = {
            "user_id": ["ann"],
            "video_id": ["v1"],
            "shown_at": [day * 86_400_000],
            "clicked": [True],
            "arm": pa.array([arm], pa.string()),
        }
        path = tmp_path / "exported" / f"1970-01-0{day + 1}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(log).replace_schema_metadata(EXPORTED), path)
    pq.write_table(pa.table({"event_id": ["e1"]}), tmp_path / "exported" / "_export.parquet")
    return path.parent


def test_a_log_in_a_folder(exported: Path, written: Written) -> None:
    log = read_table("interactions", FilesData(kind="files", catalog=written("catalog.csv", CATALOG), interactions=str(exported)))
    assert log.select(["shown_at", "clicked", "arm"]).to_pylist() == [
        {"shown_at": 86_400_000, "clicked": True, "arm": None},
        {"shown_at": 2 * 86_400_000, "clicked": True, "arm": "canary"},
    ]


def test_a_log_in_several_places(exported: Path, written: Written) -> None:
    places = [written("old.csv", LOG), str(exported)]
    dataset = FilesData(kind="files", catalog=written("catalog.csv", CATALOG)).model_copy(update={"interactions": places})
    log = read_table("interactions", dataset)
    assert log["shown_at"].to_pylist() == [NOW, NOW + 1, NOW + 2, 86_400_000, 2 * 86_400_000]
    assert log["arm"].to_pylist() == [None, None, None, None, "canary"]


def test_an_exported_log_beside_an_old_one_in_other_names_and_units(exported: Path, written: Written, ingested: Ingest) -> None:
    written("exported/old.csv", "who,video_id,shown_at,clicked,arm\nbob,v1,50,5,7\nbob,v9,51,5,7\nbob,v2,soon,1,\nbob,v2,60,1,\n")
    catalog = written("catalog.csv", CATALOG)
    names = {"user_id": "who"}
    dataset = FilesData(
        kind="files", catalog=catalog, interactions=str(exported), interactions_columns=names, time_unit="s", click_at_least=4
    )
    workspace = ingested(dataset)
    columns = ["user_id", "shown_at", "clicked", "arm"]
    assert [tuple(row.values()) for row in workspace.read("interactions", columns).to_pylist()] == [
        ("bob", 50_000, True, "7"),  # a side column that is text elsewhere is text here
        ("bob", 60_000, False, None),
        ("ann", 86_400_000, True, None),
        ("ann", 2 * 86_400_000, True, "canary"),
    ]
    rejects = [(Path(row["source"]).name, row["row"], row["reason"]) for row in workspace.rejects("ingest").to_pylist()]
    assert sorted(rejects) == [
        ("old.csv", 3, "video_id: 'v9' is not in the catalog"),
        ("old.csv", 4, "shown_at: 'soon' is not a time: neither a number (of s) nor ISO 8601, such as 2024-01-31T12:00:00Z"),
    ]


def test_of_the_fields_that_callers_name_the_most_frequent_ones_become_columns(tmp_path: Path) -> None:
    """Where one caller sends another name with each request, the names that most requests have are kept."""
    said = [{"device": "tv"}] * 60 + [{"z": "last", "arm": "mine", "user_id": "mine"}] * 3
    said += [{"device": "phone", f"junk {number:03}": number} for number in range(200)]
    count = len(said) + 1
    log = {"user_id": ["ann"] * count, "video_id": ["v1"] * count, "shown_at": range(count), "clicked": [True] * count}
    table = pa.table(log | {"arm": ["stable"] * count, "context": [*map(json.dumps, said), None]})
    pq.write_table(table.replace_schema_metadata(EXPORTED), tmp_path / "log.parquet")
    read = read_table("interactions", FilesData(kind="files", catalog="catalog.csv", interactions=str(tmp_path / "log.parquet")))
    side = set(read.column_names) - {*log, "arm"}
    assert len(side) == 50
    assert {"device", "z"} <= side
    assert read["device"].to_pylist() == ["tv"] * 60 + [None] * 3 + ["phone"] * 200 + [None]
    assert read["z"].to_pylist()[60:64] == ["last"] * 3 + [None]
    assert set(read["arm"].to_pylist()) == {"stable"}  # no field takes the place of a column
    assert set(read["user_id"].to_pylist()) == {"ann"}


def test_a_folder_without_tables_is_an_error(tmp_path: Path, written: Written) -> None:
    (tmp_path / "log").mkdir()
    written("log/_export.parquet", "")
    with pytest.raises(TableError, match=r"log: the folder contains no table \(.parquet, .csv, "):
        read_table("interactions", FilesData(kind="files", catalog="catalog.csv", interactions=str(tmp_path / "log")))


def logs(folder: Path, **columns: object) -> FilesData:
    """A catalog and a folder of logs, `a`, `b`, ..., that differ in the side column `x`: Parquet for an array, CSV for texts."""
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "catalog.csv").write_text(CATALOG)
    for name, values in columns.items():
        if isinstance(values, pa.Array):
            rows = {"user_id": ["u"], "video_id": ["v1"], "shown_at": [NOW], "clicked": [False]}
            table = pa.table({key: cells * len(values) for key, cells in rows.items()} | {"x": values})
            pq.write_table(table, folder / "logs" / f"{name}.parquet")
        else:
            lines = ["user_id,video_id,shown_at,clicked,x", *(f"u,v1,{NOW},0,{text}" for text in values)]
            (folder / "logs" / f"{name}.csv").write_text("\n".join(lines))
    return FilesData(kind="files", catalog=str(folder / "catalog.csv"), interactions=str(folder / "logs"))


@pytest.mark.parametrize(
    ("columns", "kind", "values"),
    [
        ({"a": ["02134", "94105"], "b": ["02134", "K1A"]}, TEXT, ["02134", "94105", "02134", "K1A"]),
        ({"a": ["02134"], "b": pa.array(["02134"])}, TEXT, ["02134", "02134"]),
        ({"a": pa.array([True, False]), "b": ["True", "False", "true"]}, TEXT, ["true", "false", "true", "false", "true"]),
        ({"a": pa.array([1.0, 2.5]), "b": ["1.0", "2.5", "x"]}, TEXT, ["1", "2.5", "1", "2.5", "x"]),
        ({"a": pa.array([1, 2]), "b": ["1.0", "2"]}, pa.int64(), [1, 2, 1, 2]),
        ({"a": pa.array([1, 2]), "b": ["1.50", "2"]}, pa.float64(), [1.0, 2.0, 1.5, 2.0]),
        ({"a": ["1234567890123456789", "1.5"]}, TEXT, ["1234567890123456789", "1.5"]),
        ({"a": pa.array([1], pa.int8()), "b": pa.array([2], pa.int64())}, pa.int64(), [1, 2]),
        ({"a": pa.nulls(1), "b": pa.array([["p"]])}, pa.large_list(TEXT), [None, ["p"]]),
        ({"a": pa.array([["p"]], pa.large_list(pa.string())), "b": pa.array([["q"]])}, pa.large_list(TEXT), [["p"], ["q"]]),
        ({"a": pa.nulls(1), "b": pa.nulls(1)}, TEXT, [None, None]),
    ],
)
def test_a_side_column_is_the_same_however_files_write_it(
    tmp_path: Path, ingested: Ingest, columns: dict, kind: pa.DataType, values: list
) -> None:
    column = ingested(logs(tmp_path, **columns)).read("interactions")["x"]
    assert column.to_pylist() == values
    assert column.type.equals(kind) or (pa.types.is_large_list(kind) and column.type.value_type == kind.value_type)


def test_a_side_column_of_types_that_do_not_fit_is_left_out_by_name(
    tmp_path: Path, ingested: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"a": pa.array([["p"]]), "b": pa.array(["p"]), "c": pa.array([{"k": 1}])}
    assert "x" not in ingested(logs(tmp_path, **columns)).read("interactions").column_names
    assert "column 'x' is left out, because no ranker can use a struct<k: int64>" in caplog.text
    assert "column 'x' is left out, because it holds large_list<" in caplog.text


@pytest.mark.parametrize(("at", "unit", "warns"), [(1_700_000_000, "ms", True), (1_700_000_000, "s", False), (NOW, "ms", False)])
def test_times_in_another_unit_are_told(
    ingested: Ingest, written: Written, caplog: pytest.LogCaptureFixture, at: int, unit: str, warns: bool
) -> None:
    log = written("l.csv", f"user_id,video_id,shown_at,clicked\nu,v1,{at},1\n")
    settings = {"kind": "files", "time_unit": unit, "catalog": written("c.csv", CATALOG), "interactions": log}
    ingested(FilesData.model_validate(settings))
    sentence = "l.csv: some impressions are from before 1990 or after tomorrow; numbers are read as ms (dataset.time_unit"
    assert (sentence in caplog.text) == warns


def test_a_list_of_no_logs_is_no_log(written: Written) -> None:
    dataset = FilesData(kind="files", catalog=written("catalog.csv", CATALOG), interactions=[])
    assert read_table("interactions", dataset).num_rows == 0


def test_a_column_that_is_ours_but_for_its_spelling_is_named(
    ingested: Ingest, written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    path = written("catalog.csv", "video_id, title,Tags,Colour\nv1,One,a,b\n")
    table = ingested(FilesData(kind="files", catalog=path, catalog_columns={"tags": "Tags"})).read("catalog")
    assert table["tags"].to_pylist() == [["a"]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: the column ' title' is not read as 'title'; rename it, or set `dataset.catalog_columns: {{title: ...}}`"
    ]
