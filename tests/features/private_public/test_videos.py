"""Which videos the network learns from."""

import pyarrow as pa

from rayrec.features.private_public.videos import ROLES, catalog_videos, with_roles


def test_roles_are_random_but_the_same_each_time() -> None:
    names = [f"v{number}" for number in range(50)]
    classes = ["a", "b", None, "a", "b"] * 10
    catalog = pa.table({"video_id": names, "uri": [f"/nowhere/{name}" for name in names], "primary_class": classes})
    videos = with_roles(catalog_videos(catalog), 0.1, 7)
    assert videos.equals(with_roles(catalog_videos(catalog), 0.1, 7))
    assert sorted(videos["video_id"].to_pylist()) == sorted(names)
    assert {role: videos["role"].to_pylist().count(role) for role in ROLES} == {"train": 36, "held_out": 4, "rest": 10}
    assert videos["video_id"].to_pylist() != names
    by_name = {row["video_id"]: row for row in videos.to_pylist()}
    assert all(by_name[name]["label"] == {"a": 0, "b": 1, None: None}[kind] for name, kind in zip(names, classes, strict=True))
