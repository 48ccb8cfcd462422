"""Logs that were published with their split are read as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rayrec.config import Config, ConfigError, SplitsData, load
from rayrec.data.pieces import LogPieces
from rayrec.data.shards import EncodedLog
from rayrec.data.split import LogSplit
from rayrec.stages import encode
from rayrec.tables import TableError
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace

Ingest = Callable[..., Workspace]
Written = Callable[[str, str | bytes], str]

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "tiktok"
TRAIN = "".join(f"{user}\t{item}\n" for user in range(4) for item in range(10))
VALIDATION, TEST = "0\t10\n1\t11\n", "0\t12\n2\t12\n3\t11\n"


def rows_of(workspace: Workspace, part: slice) -> list[tuple[str, ...]]:
    """The users and videos of some rows of the log, sorted."""
    columns = workspace.read("interactions", ["user_id", "video_id"]).columns
    return sorted(zip(*(column.to_pylist()[part] for column in columns), strict=True))


def split_of(workspace: Workspace) -> LogSplit:
    return LogPieces.of(workspace.fs, workspace.part_digests("interactions")).split(Config().split)


def pairs(text: str) -> list[tuple[str, ...]]:
    return sorted(tuple(line.split("\t")) for line in text.splitlines())


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(14, 3)).astype(np.float16)
    np.save(tmp_path / "image.npy", rows)
    return rows


def test_three_files_and_vectors(ingested: Ingest, written: Written, tmp_path: Path, vectors: np.ndarray) -> None:
    paths = {name: written(f"{name}.tsv", text) for name, text in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))}
    dataset = SplitsData(kind="splits", **paths, features={"image": str(tmp_path / "image.npy")})
    workspace = ingested(dataset)
    split = split_of(workspace)
    assert split.by == "file"
    for part, text in ((split.train, TRAIN), (split.validation, VALIDATION), (split.test, TEST)):
        assert rows_of(workspace, part) == pairs(text)
    catalog = workspace.read("catalog")
    assert catalog["video_id"].to_pylist() == [str(number) for number in range(14)]
    assert np.array_equal(np.array(catalog["image"].to_pylist(), np.float32), vectors.astype(np.float32))
    config = Config.model_validate({"workspace": workspace.uri, "dataset": dataset.model_dump(), "max_rejects": 1})
    run_stage(workspace, encode.STAGE, config)
    facts = EncodedLog.open(workspace.fs, workspace.folder("encode")).facts
    assert (facts.split_by, facts.clicks_only) == ("file", True)


def test_ratings_with_times_and_without_validation(ingested: Ingest, written: Written, caplog: pytest.LogCaptureFixture) -> None:
    train = "".join(f"{user}\t{item}\t{1 + item % 5}\t87{item:07}\n" for user in range(5) for item in range(20))
    dataset = SplitsData(
        kind="splits",
        train=written("u1.base", train),
        test=written("u1.test", "0\t20\t5\t870000000\n1\t21\t2\t870000001\n"),
        columns=["user_id", "video_id", "rating", "shown_at"],
        click_at_least=4,
    )
    workspace = ingested(dataset)
    split, log = split_of(workspace), workspace.read("interactions")
    assert (split.train_end, split.validation_end, split.rows) == (90, 100, 102)
    assert all(count == 2 for count in np.unique(log["user_id"].to_pylist()[split.validation], return_counts=True)[1])
    assert rows_of(workspace, split.test) == [("0", "20"), ("1", "21")]
    expected = {str(item): 1 + item % 5 for item in range(20)} | {"20": 5, "21": 2}
    assert log["rating"].to_pylist() == [expected[video] for video in log["video_id"].to_pylist()]
    assert log["clicked"].to_pylist() == [rating >= 4 for rating in log["rating"].to_pylist()]
    assert "u1.base: the column 'shown_at' is not used, because the split is given" in caplog.text
    assert "at random" not in caplog.text


def test_a_header_and_commas(ingested: Ingest, written: Written) -> None:
    train, test = written("train.csv", "itemId,userId,device\na,u1,tv\nb,u1,web\n"), written("test.csv", "u1,b\nu2,a\n")
    workspace = ingested(SplitsData(kind="splits", train=train, test=test))
    rows = workspace.read("interactions", ["user_id", "video_id", "device"]).to_pylist()
    assert sorted(tuple(str(cell) for cell in row.values()) for row in rows) == [
        ("u1", "a", "tv"),
        ("u1", "b", "None"),
        ("u1", "b", "web"),
        ("u2", "a", "None"),
    ]
    assert workspace.read("catalog")["video_id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("train", "settings", "sentence"),
    [
        ("0 1\n", {}, "the first row, '0 1', has neither tabs nor commas"),
        ("0\t1\t5\n", {}, r"has 3 columns, and `dataset.columns` names 2 \(user_id, video_id\)"),
        ("0\t1\t5\n", {"columns": ["user_id", "video_id", "rating"]}, "set `dataset.click_at_least` to the lowest rating"),
        ("0\t77\n", {"features": {"image": "image.npy"}}, "the item '77' has no vector; .* there are 14"),
        ("0\t1\n", {"features": {"title": "image.npy"}}, "the catalog has a column 'title' already"),
        ("0\t1\n", {"features": {"image": "train.tsv"}}, r"train.tsv: not a readable file of NumPy's \(.npy\)"),
        ("0\t1\n", {"features": {"image": "pickled.npy"}}, r"pickled.npy: not a readable file of NumPy's \(.npy\)"),
        ("0\t1\n", {"features": {"image": "flat.npy"}}, "holds one array of numbers with a row for each item"),
        ("0\t1\n", {"features": {"image": "nan.npy"}}, "row 1 holds a number that is not finite"),
    ],
)
@pytest.mark.usefixtures("vectors")
def test_what_is_wrong_is_said(
    ingested: Ingest, written: Written, tmp_path: Path, train: str, settings: dict, sentence: str
) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.arange(3.0))
    np.save(tmp_path / "nan.npy", np.array([[1.0], [np.nan]]))
    features = {name: str(tmp_path / file) for name, file in settings.get("features", {}).items()}
    paths = {"train": written("train.tsv", train), "test": written("test.tsv", train)}
    dataset = SplitsData.model_validate({"kind": "splits"} | paths | settings | {"features": features})
    with pytest.raises(TableError, match=sentence):
        ingested(dataset)


def test_columns_without_users_are_refused() -> None:
    with pytest.raises(ConfigError, match="columns must name user_id"):
        load(None, ["dataset.kind=splits", "dataset.train=a", "dataset.test=b", "dataset.columns=[uid, video_id]"])


@pytest.mark.skipif(not REAL.exists(), reason=f"the TikTok data are not at {REAL}")
def test_the_real_thing(ingested: Ingest) -> None:
    paths = {name: str(REAL / f"{file}.tsv") for name, file in (("train", "train"), ("validation", "val"), ("test", "test"))}
    features = {"image": str(REAL / "image_feat.npy"), "audio": str(REAL / "audio_feat.npy")}
    workspace = ingested(SplitsData.model_validate({"kind": "splits", "features": features} | paths), max_rejects=0)
    split = split_of(workspace)
    for name, part in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        assert rows_of(workspace, part) == pairs(Path(paths[name]).read_text())
    catalog = workspace.read("catalog")
    assert catalog.num_rows == 6710
    for name, path in features.items():
        assert np.array_equal(np.array(catalog[name].to_pylist(), np.float32), np.load(path).astype(np.float32))
