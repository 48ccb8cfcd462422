"""What encoders read and what tasks predict."""

import io

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from PIL import Image

from rayrec import tables
from rayrec.tables import TableError
from rayrec.topics.contents import AHEAD, Contents, Scale, fit_scales, read_covers, read_labels, read_titles, read_vectors, square
from rayrec.topics.titles import HashedTitles


def jpeg(width: int, height: int, colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG")
    return file.getvalue()


def test_vectors_are_scaled_as_a_whole_and_zero_where_there_are_none() -> None:
    catalog = tables.from_columns("catalog", {"video_id": ["a", "b", "c"]})
    vectors = tables.from_columns("vectors", {"video_id": ["c", "a"], "cover": [[3.0, 0.0], [0.0, 1.0]], "audio": [None, [2.0]]})
    scales = fit_scales(catalog, vectors, ["cover", "motion", "audio"])
    assert scales == {"cover": Scale(2, pytest.approx(np.sqrt(10 / 4))), "audio": Scale(1, 2.0)}
    expected = np.array([[0, 1 / np.sqrt(2.5), 1], [0, 0, 0], [3 / np.sqrt(2.5), 0, 0]])
    np.testing.assert_allclose(read_vectors(catalog, vectors, scales), expected, rtol=1e-6)
    np.testing.assert_array_equal(read_vectors(catalog, None, scales), np.zeros((3, 3)))
    assert read_vectors(catalog, vectors, {}) is None
    with pytest.raises(TableError, match="'cover': the vectors hold 2 numbers, but the topic model was trained on 5"):
        read_vectors(catalog, vectors, {"cover": Scale(5, 1.0)})


def test_a_batch_holds_the_chosen_rows() -> None:
    catalog = tables.from_columns("catalog", {"video_id": ["a", "b", "c"], "title": ["one two three", None, "one"]})
    features = tables.from_columns(
        "features", {"video_id": ["c", "a"], "status": ["ok", "ok"], "cover_jpeg": [jpeg(40, 20, "white"), jpeg(20, 30, "red")]}
    )
    codec = HashedTitles()
    contents = Contents(3, None, read_covers(catalog, features), 16, read_titles(catalog, codec))
    batch = contents.batch(np.array([2, 1]))
    assert batch.vectors is None
    assert batch.covers.shape == (2, 16, 16, 3)
    assert batch.covers[0].float().mean() > 250  # white
    assert not batch.covers[1].any()  # none
    assert batch.titles.tolist() == [codec.numbers(["one"])[0], [0] * len(codec.numbers(["one"])[0])]
    assert contents.mask().tolist() == [True, False, True]


@pytest.mark.parametrize("count", [0, 3, 2 * AHEAD + 1])
def test_batches_that_are_made_ahead_come_in_their_order(count: int) -> None:
    names = [f"v{number}" for number in range(count)]
    catalog = tables.from_columns("catalog", {"video_id": names})
    covers = [jpeg(20, 20, f"rgb({20 * number}, 0, 0)") for number in range(count)]
    features = tables.from_columns("features", {"video_id": names, "status": ["ok"] * count, "cover_jpeg": covers})
    contents = Contents(count, None, read_covers(catalog, features), 8)
    rows = [np.array([number, 0]) for number in range(count)]
    found = list(contents.batches(iter(rows)))
    assert len(found) == count
    for batch, some in zip(found, rows, strict=True):
        assert torch.equal(batch.covers, contents.batch(some).covers)


def test_a_cover_is_cut_from_its_middle() -> None:
    picture = Image.new("RGB", (60, 20), "black")
    picture.paste((255, 255, 255), (20, 0, 40, 20))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    assert square(file.getvalue(), 20).float().mean() > 235


def test_labels_leave_out_what_teaches_nothing() -> None:
    catalog = tables.from_columns(
        "catalog", {"video_id": ["a", "b", "c"], "primary_class": ["x", None, "y"], "secondary_class": ["same", "same", None]}
    )
    tags = sp.csr_matrix(np.array([[1, 0], [0, 0], [1, 1]], np.float32))
    labels = read_labels(catalog, tags)
    assert labels.tasks == {"primary_class": 2, "tags": 2}
    batch = labels.batch(np.array([2, 1]))
    assert batch["primary_class"].tolist() == [1, -1]
    assert torch.equal(batch["tags"], torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert read_labels(catalog.slice(0, 1), sp.csr_matrix((1, 0), dtype=np.float32)).tasks == {}


def test_covers_may_exceed_2_gib() -> None:
    """Their offsets have 64 bits from the start, so no step joins narrow arrays."""
    catalog = tables.from_columns("catalog", {"video_id": ["b", "a"]})
    parts = [pa.table({"video_id": [name], "cover_jpeg": pa.array([name.encode()], pa.binary())}) for name in "ab"]
    covers = read_covers(catalog, pa.concat_tables(parts))
    assert covers.type == pa.large_binary()
    assert covers.to_pylist() == [b"b", b"a"]


def test_covers_of_a_catalog_without_features() -> None:
    assert read_covers(tables.from_columns("catalog", {"video_id": ["a"]}), None).to_pylist() == [None]
    assert isinstance(read_covers(tables.from_columns("catalog", {"video_id": ["a"]}), None), pa.Array)
