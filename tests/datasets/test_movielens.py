from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rayrec.config import MovieLensData, Split
from rayrec.data.pieces import LogPieces
from rayrec.workspace.versions import Workspace

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "ml-100k"
ITEMS = [  # made up here, in the form of the real file
    "1|Café Noir, The (1995)|01-Jan-1995||http://x/1|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    '2|"Quoted" Film (1994)|4-Feb-1971||http://x/2|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0|1',
    "3|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    "4|Old One (1931)|01-Jan-1931||http://x/4|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0",
    "5|Bad Date (1990)|soon||http://x/5|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0",
]
DATA = ["7\t1\t4\t881250949", "7\t2\t3\t881250900", "8\t1\t5\t881250950", "8\t5\t5\t881250950", "8\t2\tgood\t881250950"]
USERS = ["7|24|M|technician|85711", "8|53|F|other|94043"]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], str]:
    (tmp_path / "ml").mkdir()
    for name, lines in (("u.item", ITEMS), ("u.data", DATA), ("u.user", USERS)):
        (tmp_path / "ml" / name).write_bytes("\n".join(lines).encode("latin-1"))
    return lambda: str(tmp_path / "ml")


def test_the_format(ingested: Callable[..., Workspace], folder: Callable[[], str]) -> None:
    workspace = ingested(MovieLensData(kind="movielens", path=folder()))
    films = workspace.read("catalog").to_pylist()
    assert [film["title"] for film in films] == ["The Café Noir", '"Quoted" Film', "unknown", "Old One"]
    assert [film["tags"] for film in films] == [["Action", "Adventure"], ["Children's", "Western"], [], ["Drama"]]
    published = [datetime(year, month, day, tzinfo=UTC).timestamp() * 1000 for year, month, day in ((1995, 1, 1), (1971, 2, 4))]
    assert [film["published_at"] for film in films] == [*published, None, None]
    assert {film["uri"] for film in films} | {film["primary_class"] for film in films} == {None}
    ratings = workspace.read("interactions").to_pylist()
    assert [(row["user_id"], row["video_id"], row["shown_at"], row["clicked"]) for row in ratings] == [
        ("7", "2", 881250900_000, False),
        ("7", "1", 881250949_000, True),
        ("8", "1", 881250950_000, True),
    ]
    assert [row["rating"] for row in ratings] == [3, 4, 5]
    assert workspace.read("users").to_pylist() == [
        {"user_id": "7", "age": 24, "gender": "M", "occupation": "technician"},
        {"user_id": "8", "age": 53, "gender": "F", "occupation": "other"},
    ]
    assert [(row["id"], row["row"]) for row in workspace.rejects("ingest").to_pylist()] == [("5", 5), ("8", 5), ("8", 4)]


def test_a_published_split(ingested: Callable[..., Workspace], folder: Callable[[], str]) -> None:
    path = Path(folder())
    (path / "u2.base").write_text("\n".join(DATA[:2]))
    (path / "u2.test").write_text(DATA[2])
    workspace = ingested(MovieLensData(kind="movielens", path=str(path), split="u2"))
    log = LogPieces.of(workspace.fs, workspace.part_digests("interactions"))
    split = log.split(Split(validation=0.4))
    rows = workspace.read("interactions").to_pylist()
    assert [(row["user_id"], row["rating"], row["clicked"]) for row in rows[split.test]] == [("8", 5, True)]
    assert sorted((row["user_id"], row["rating"], row["clicked"]) for row in rows[: split.test.start]) == [
        ("7", 3, False),
        ("7", 4, True),
    ]
    assert workspace.read("users").num_rows == 2
    assert workspace.read("catalog").num_rows == 4


@pytest.mark.skipif(not REAL.exists(), reason=f"MovieLens 100K is not at {REAL}")
def test_the_real_thing(ingested: Callable[..., Workspace]) -> None:
    workspace = ingested(MovieLensData(kind="movielens", path=str(REAL)), max_rejects=0)
    interactions, catalog, users = (workspace.read(name) for name in ("interactions", "catalog", "users"))
    assert (interactions.num_rows, users.num_rows, catalog.num_rows) == (100_000, 943, 1_682)
    assert workspace.rejects("ingest").num_rows == 0
    ratings = [line.split("\t")[2] for line in (REAL / "u.data").read_text().splitlines()]
    assert sum(interactions["clicked"].to_pylist()) == ratings.count("4") + ratings.count("5")
    assert sorted(interactions["rating"].to_pylist()) == sorted(map(float, ratings))
    assert sum(len(tags) for tags in catalog["tags"].to_pylist()) == 2_891  # 2,893 genre marks, two of them `unknown`
