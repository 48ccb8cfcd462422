from collections.abc import Callable
from pathlib import Path

import pytest

from rayrec.config import YouTubeData
from rayrec.datasets import youtube
from rayrec.tables import TableError
from rayrec.workspace.versions import Workspace

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "youtube" / "USvideos.csv"
HEADER = "video_id,title,channel_title,category_id,tags,views,likes,dislikes,comment_total,thumbnail_link,date"
ROWS = [  # made up here, in the form of the real file
    'aaaaaaaaaa1,"Cats, and dogs",Zoo,15,Cat|cat| Funny Dog |,9,1,1,0,https://i.ytimg.com/vi/aaaaaaaaaa1/default.jpg,28.09',
    "aaaaaaaaaa2,Latest song 🎵,Band,10,[none],9,1,1,0,https://i.ytimg.com/vi/aaaaaaaaaa2/default.jpg,10.1",
    "aaaaaaaaaa2,Late song,Band,10,song,9,1,1,0,https://i.ytimg.com/vi/aaaaaaaaaa2/default.jpg,09.10",
    "#NAME?,Dash,Band,99,x,9,1,1,0,https://i.ytimg.com/vi/-aaaaaaaaa3/default.jpg,30.09",
    "#NAME?,Lost,Band,10,x,9,1,1,0,,30.09",
    "aaaaaaaaaa4,Never,Band,10,x,9,1,1,0,https://i.ytimg.com/vi/aaaaaaaaaa4/default.jpg,100",
    "aaaaaaaaaa5,too few cells,Band",
]


def test_the_format(ingested: Callable[..., Workspace], written: Callable[..., str]) -> None:
    workspace = ingested(YouTubeData(kind="youtube", path=written("us.csv", "\n".join([HEADER, *ROWS]))))
    videos = {video["video_id"]: video for video in workspace.read("catalog").to_pylist()}
    assert {video: row["title"] for video, row in videos.items()} == {
        "aaaaaaaaaa1": "Cats, and dogs",
        "aaaaaaaaaa2": "Latest song 🎵",
        "-aaaaaaaaa3": "Dash",
    }
    assert [row["tags"] for row in videos.values()] == [["cat", "funny dog"], [], ["x"]]
    assert [row["primary_class"] for row in videos.values()] == ["Pets & Animals", "Music", "99"]
    assert [row["author_id"] for row in videos.values()] == ["Zoo", "Band", "Band"]
    assert {row[column] for row in videos.values() for column in ("uri", "secondary_class", "published_at")} == {None}
    rejects = workspace.rejects("ingest").to_pylist()
    assert sorted((row["row"], row["reason"].partition(":")[0]) for row in rejects) == [
        (6, "video_id"),
        (7, "date"),
        (8, "has 3 cells, the table 11 columns"),
    ]
    assert workspace.read("interactions").num_rows == 0


def test_another_file_is_named(written: Callable[..., str]) -> None:
    with pytest.raises(TableError, match=r"us.csv: there is no column 'tags'; give Kaggle's"):
        youtube.read_catalog(written("us.csv", "video_id,title\na,b\n"))


@pytest.mark.skipif(not REAL.exists(), reason=f"the trending videos are not at {REAL}")
def test_the_real_thing(ingested: Callable[..., Workspace]) -> None:
    workspace = ingested(YouTubeData(kind="youtube", path=str(REAL)), max_rejects=0.01)
    catalog = workspace.read("catalog")
    # 2,335 different cells, one of which is the `#NAME?` of 30 videos.
    assert catalog.num_rows == 2_334 + 30
    assert len(set(catalog["primary_class"].to_pylist())) == 16
    assert workspace.rejects("ingest")["reason"].to_pylist() == ["date: '100' is not a day and a month such as 28.09"] * 4
    titles = dict(zip(catalog["video_id"].to_pylist(), catalog["title"].to_pylist(), strict=True))
    assert titles["cFVRCo6-FUU"] == "Trader Joe's Pumpkin Spice Taste Test"
