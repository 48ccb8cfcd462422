"""What the encoders read of a catalog (vectors, covers, titles) and what their tasks predict (classes, tags), row by row.

Everything stays compact (Arrow, sparse matrices) and becomes tensors a batch at a time, so that the size of a catalog or of its
vocabulary of tags does not matter.
"""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import torch
from PIL import Image, ImageOps

from rayrec.tables import TableError
from rayrec.topics.titles import TitleCodec, padded

CLASSES = ("primary_class", "secondary_class")


@dataclass(frozen=True)
class Batch:
    """B videos, as the encoders take them. A part that the catalog lacks is None."""

    vectors: torch.Tensor | None = None  # float32 [B, V]; zeros where a video has none
    covers: torch.Tensor | None = None  # uint8 [B, S, S, 3]; black where a video has none
    titles: torch.Tensor | None = None  # int64 [B, L], padded

    def to(self, device: torch.device) -> "Batch":
        move = [part if part is None else part.to(device, non_blocking=True) for part in (self.vectors, self.covers, self.titles)]
        return Batch(*move)


@dataclass(frozen=True)
class Contents:
    """All videos, in the catalog's order."""

    count: int
    vectors: np.ndarray | None = None  # float32 [videos, V]
    covers: pa.Array | None = None  # JPEGs
    cover_size: int = 0  # side of the square that a cover is made to, pixels
    titles: pa.Array | None = None  # lists of numbers
    padding: int = 0  # the number that fills up the shorter titles of a batch

    def batch(self, rows: np.ndarray) -> Batch:
        vectors = covers = titles = None
        if self.vectors is not None:
            vectors = torch.from_numpy(self.vectors[rows])
        if self.covers is not None:
            covers = torch.stack([square(jpeg, self.cover_size) for jpeg in self.covers.take(pa.array(rows)).to_pylist()])
        if self.titles is not None:
            lists = self.titles.take(pa.array(rows)).to_numpy(zero_copy_only=False)
            titles = torch.from_numpy(padded(list(lists), self.padding))
        return Batch(vectors, covers, titles)

    def there(self) -> np.ndarray:
        """The mask of the videos that have anything to read."""
        mask = np.zeros(self.count, dtype=bool)
        if self.vectors is not None:
            mask |= self.vectors.any(axis=1)
        if self.covers is not None:
            mask |= self.covers.is_valid().to_numpy(zero_copy_only=False)
        if self.titles is not None:
            mask |= pc.greater(pc.list_value_length(self.titles), 0).to_numpy(zero_copy_only=False)
        return mask


@dataclass(frozen=True)
class Labels:
    """What the tasks predict. A task that no video has a label for is left out."""

    classes: dict[str, np.ndarray]  # int64 [videos], -1 for none
    class_names: dict[str, list[str]]
    tags: sp.csr_matrix | None  # float32 0/1 [videos, tags]

    @property
    def tasks(self) -> dict[str, int]:
        """The number of outputs of each task."""
        sizes = {name: len(names) for name, names in self.class_names.items()}
        return sizes | ({"tags": self.tags.shape[1]} if self.tags is not None else {})

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Class numbers int64 [B], tags float32 [B, tags]."""
        chosen = {name: torch.from_numpy(numbers[rows]) for name, numbers in self.classes.items()}
        return chosen | ({"tags": torch.from_numpy(self.tags[rows].toarray())} if self.tags is not None else {})


def read_labels(catalog: pa.Table, videos_tags: sp.csr_matrix) -> Labels:
    """Classes and tags of a catalog; classes that are all the same teach nothing and are left out."""
    classes, names = {}, {}
    for name in CLASSES:
        numbers = catalog[name].combine_chunks().dictionary_encode()
        if len(numbers.dictionary) > 1:
            classes[name] = numbers.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            names[name] = numbers.dictionary.to_pylist()
    return Labels(classes, names, videos_tags if videos_tags.nnz else None)


@dataclass(frozen=True)
class Scale:
    """How a modality's vectors enter: all of its numbers divided by one, so that the large components of a PCA stay larger."""

    size: int
    by: float


def fit_scales(catalog: pa.Table, vectors: pa.Table | None, modalities: list[str]) -> dict[str, Scale]:
    """The scale of each named modality that some video of the catalog has."""
    scales = {}
    for name in modalities if vectors is not None else []:
        values, there = _aligned(catalog, vectors, name)
        if there.any():
            scales[name] = Scale(values.shape[1], max(float(np.sqrt(np.square(values, dtype=np.float64).mean())), 1e-6))
    return scales


def read_vectors(catalog: pa.Table, vectors: pa.Table | None, scales: dict[str, Scale]) -> np.ndarray | None:
    """The modalities side by side, float32 [videos, V], zeros where a video has none; None when there are no modalities.

    Raises `ValueError` for vectors of another size than the scales were fitted on.
    """
    parts = []
    for name, scale in scales.items():
        part = np.zeros((catalog.num_rows, scale.size), dtype=np.float32)
        values, there = _aligned(catalog, vectors, name)
        if there.any():
            if values.shape[1] != scale.size:
                raise TableError(f"table vectors, column {name!r}: {values.shape[1]} numbers; the topic model has {scale.size}")
            part[there] = values / scale.by
        parts.append(part)
    return np.concatenate(parts, axis=1) if parts else None


def _aligned(catalog: pa.Table, vectors: pa.Table | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the catalog's videos that have one, and the mask over the catalog that says which these are."""
    if vectors is None:
        return np.empty((0, 0), np.float32), np.zeros(catalog.num_rows, dtype=bool)
    at = pc.index_in(catalog["video_id"].combine_chunks(), value_set=vectors["video_id"].combine_chunks())
    found = vectors[name].combine_chunks().take(at)
    there = found.is_valid().to_numpy(zero_copy_only=False)
    return np.stack(found.drop_null().to_numpy(zero_copy_only=False)) if there.any() else np.empty((0, 0), np.float32), there


def read_covers(catalog: pa.Table, features: pa.Table | None) -> pa.Array:
    """The JPEG of each video of the catalog, null where there is none."""
    if features is None:
        return pa.nulls(catalog.num_rows, pa.binary())
    at = pc.index_in(catalog["video_id"].combine_chunks(), value_set=features["video_id"].combine_chunks())
    return features["cover_jpeg"].combine_chunks().take(at)


def read_titles(catalog: pa.Table, codec: TitleCodec) -> pa.Array:
    return pa.array(codec.numbers(catalog["title"].to_pylist()), pa.list_(pa.int64()))


def square(jpeg: bytes | None, size: int) -> torch.Tensor:
    """uint8 [size, size, 3]: the short side resized, then the centre cropped; black for a video without a cover."""
    if jpeg is None:
        return torch.zeros(size, size, 3, dtype=torch.uint8)
    picture = ImageOps.fit(Image.open(io.BytesIO(jpeg)).convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture))
