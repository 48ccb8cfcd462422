"""Which videos the private/public network learns from, and which it is only run on."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.features.media.files import file_versions
from rayrec.tables import TEXT

TRAIN, HELD_OUT, REST = ROLES = ("train", "held_out", "rest")


def catalog_videos(catalog: pa.Table) -> pa.Table:
    """The catalog rows that have a `uri`: video_id, uri, row (in the catalog), class and file_version, both null where unknown."""
    rows = pa.array(range(catalog.num_rows), pa.int64())
    columns = {"video_id": catalog["video_id"], "uri": catalog["uri"], "row": rows, "class": catalog["primary_class"]}
    videos = pa.table(columns).filter(pc.is_valid(catalog["uri"]))
    uris = videos["uri"].to_pylist()
    versions = file_versions(set(uris))
    return videos.append_column("file_version", pa.array([versions.get(uri) for uri in uris], TEXT)).combine_chunks()


def with_roles(videos: pa.Table, held_out: float, seed: int) -> pa.Table:
    """The videos in random order with the columns `role` and `label`; a share of those that have a class is held out."""
    rng = np.random.default_rng(seed)
    videos = videos.take(pa.array(rng.permutation(videos.num_rows)))
    known = np.flatnonzero(videos["class"].is_valid().to_numpy())
    roles = np.full(videos.num_rows, REST, dtype=object)
    roles[known] = TRAIN
    roles[known[: max(1, round(held_out * len(known)))]] = HELD_OUT
    labels = pc.index_in(videos["class"], value_set=pa.array(classes_of(videos), TEXT))
    videos = videos.append_column("role", pa.array(roles, TEXT)).append_column("label", labels)
    return pa.concat_tables([videos.filter(pc.equal(videos["role"], role)) for role in ROLES])


def classes_of(videos: pa.Table) -> list[str]:
    """The names of the classes, sorted."""
    return sorted(pc.unique(videos["class"].drop_null()).to_pylist())
