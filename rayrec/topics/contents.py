"""What the encoders read from a catalog (vectors, covers, titles), and what their tasks predict (classes, tags), row by row.

Everything stays compact (Arrow, sparse matrices) and becomes tensors one batch at a time, so that memory does not limit the size of
a catalog or of its vocabulary of tags.
"""

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import torch
from PIL import Image, ImageOps

from rayrec.tables import BYTES, TableError
from rayrec.topics.titles import TitleCodec, padded

AHEAD = 4  # batches whose covers are decoded at a time
CLASSES = ("primary_class", "secondary_class")


@dataclass(frozen=True)
class Batch:
    """The encoders' inputs for B videos. A part that the catalog lacks is None."""

    vectors: torch.Tensor | None = None  # float32 [B, V]; zeros where a video has none
    covers: torch.Tensor | None = None  # uint8 [B, S, S, 3]; black where a video has none
    titles: torch.Tensor | None = None  # int64 [B, L], padded

    def to(self, device: torch.device) -> "Batch":
        move = [part if part is None else part.to(device, non_blocking=True) for part in (self.vectors, self.covers, self.titles)]
        return Batch(*move)


@dataclass(frozen=True)
class Contents:
    """The encoders' inputs for all videos, in the order of the catalog."""

    count: int
    vectors: np.ndarray | None = None  # float32 [videos, V]
    covers: pa.Array | None = None  # JPEGs, large_binary
    cover_size: int = 0  # side of the square that is cut from a cover, in pixels
    titles: pa.Array | None = None  # lists of token ids
    padding: int = 0  # the token id that pads the shorter titles of a batch

    def batch(self, rows: np.ndarray) -> Batch:
        """The inputs for the videos at these rows."""
        vectors = covers = titles = None
        if self.vectors is not None:
            vectors = torch.from_numpy(self.vectors[rows])
        if self.covers is not None:
            covers = torch.stack([square(jpeg, self.cover_size) for jpeg in self.covers.take(pa.array(rows)).to_pylist()])
        if self.titles is not None:
            lists = self.titles.take(pa.array(rows)).to_numpy(zero_copy_only=False)
            titles = torch.from_numpy(padded(list(lists), self.padding))
        return Batch(vectors, covers, titles)

    def batches(self, rows: Iterable[np.ndarray]) -> Iterator[Batch]:
        """The inputs for each of these sets of rows. Covers are decoded ahead in threads, while the caller works with a batch."""
        if self.covers is None:
            yield from map(self.batch, rows)
            return
        with ThreadPoolExecutor(AHEAD) as pool:
            made: deque[Future[Batch]] = deque()
            for some in rows:
                made.append(pool.submit(self.batch, some))
                if len(made) > AHEAD:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()

    def mask(self) -> np.ndarray:
        """bool [videos]: whether a video has anything that the encoders can read."""
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
    """The labels of all tasks. A task for which no video has a label is left out."""

    classes: dict[str, np.ndarray]  # int64 [videos], -1 for none
    class_names: dict[str, list[str]]
    tags: sp.csr_matrix | None  # float32 0/1 [videos, tags]

    @property
    def tasks(self) -> dict[str, int]:
        """The number of outputs of each task, by its name."""
        sizes = {name: len(names) for name, names in self.class_names.items()}
        return sizes | ({"tags": self.tags.shape[1]} if self.tags is not None else {})

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The labels of the videos at these rows, by task: classes int64 [B], tags float32 [B, tags]."""
        chosen = {name: torch.from_numpy(numbers[rows]) for name, numbers in self.classes.items()}
        return chosen | ({"tags": torch.from_numpy(self.tags[rows].toarray())} if self.tags is not None else {})


def read_labels(catalog: pa.Table, videos_tags: sp.csr_matrix) -> Labels:
    """The classes and tags of a catalog. Classes that are the same for all videos teach nothing and are left out."""
    classes, names = {}, {}
    for name in CLASSES:
        numbers = catalog[name].combine_chunks().dictionary_encode()
        if len(numbers.dictionary) > 1:
            classes[name] = numbers.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            names[name] = numbers.dictionary.to_pylist()
    return Labels(classes, names, videos_tags if videos_tags.nnz else None)


@dataclass(frozen=True)
class Scale:
    """How a modality's vectors are scaled: all numbers are divided by one, so that the first components of a PCA stay larger."""

    size: int
    by: float


def fit_scales(catalog: pa.Table, vectors: pa.Table | None, modalities: list[str]) -> dict[str, Scale]:
    """The scale of each of these modalities that some video of the catalog has."""
    scales = {}
    for name in modalities if vectors is not None else []:
        values, mask = _aligned(catalog, vectors, name)
        if mask.any():
            scales[name] = Scale(values.shape[1], max(float(np.sqrt(np.square(values, dtype=np.float64).mean())), 1e-6))
    return scales


def read_vectors(catalog: pa.Table, vectors: pa.Table | None, scales: dict[str, Scale]) -> np.ndarray | None:
    """The scaled modalities, concatenated: float32 [videos, V], zeros where a video has none; None without modalities.

    Raises `TableError` for vectors of another size than the scales were fitted on.
    """
    parts = []
    for name, scale in scales.items():
        part = np.zeros((catalog.num_rows, scale.size), dtype=np.float32)
        values, mask = _aligned(catalog, vectors, name)
        if mask.any():
            if values.shape[1] != scale.size:
                raise TableError(
                    f"table vectors, column {name!r}: the vectors hold {values.shape[1]} numbers, but the topic model was trained "
                    f"on {scale.size}; run `rayrec topics CONFIG` to train a new one"
                )
            part[mask] = values / scale.by
        parts.append(part)
    return np.concatenate(parts, axis=1) if parts else None


def _aligned(catalog: pa.Table, vectors: pa.Table | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the catalog's videos that have one, and the mask of these videos over the catalog."""
    if vectors is None:
        return np.empty((0, 0), np.float32), np.zeros(catalog.num_rows, dtype=bool)
    at = pc.index_in(catalog["video_id"].combine_chunks(), value_set=vectors["video_id"].combine_chunks())
    found = vectors[name].combine_chunks().take(at)
    mask = found.is_valid().to_numpy(zero_copy_only=False)
    return np.stack(found.drop_null().to_numpy(zero_copy_only=False)) if mask.any() else np.empty((0, 0), np.float32), mask


def read_covers(catalog: pa.Table, features: pa.Table | None) -> pa.Array:
    """The JPEG of each video of the catalog, null where there is none."""
    if features is None:
        return pa.nulls(catalog.num_rows, BYTES)
    at = pc.index_in(catalog["video_id"].combine_chunks(), value_set=features["video_id"].combine_chunks())
    return features["cover_jpeg"].cast(BYTES).combine_chunks().take(at)


def read_titles(catalog: pa.Table, codec: TitleCodec) -> pa.Array:
    """The token ids of the title of each video of the catalog."""
    return pa.array(codec.numbers(catalog["title"].to_pylist()), pa.list_(pa.int64()))


def square(jpeg: bytes | None, size: int) -> torch.Tensor:
    """uint8 [size, size, 3]: the cover with its short side resized and its centre cropped; black for a video without a cover."""
    if jpeg is None:
        return torch.zeros(size, size, 3, dtype=torch.uint8)
    picture = ImageOps.fit(Image.open(io.BytesIO(jpeg)).convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture))
