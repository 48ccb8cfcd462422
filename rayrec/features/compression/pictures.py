"""The pictures that a compressed network is fitted on: those of a folder, or the covers of the catalog."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from rayrec.config import ConfigError
from rayrec.features.media.covers import CoverError, cropped, read_picture

ENDINGS = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
MIN_PICTURES = 20


@dataclass(frozen=True)
class Pictures:
    """Squares of pixels and, where the pictures are sorted into folders, the number of each picture's folder."""

    pixels: np.ndarray  # uint8 [N, size, size, 3]
    labels: np.ndarray | None = None  # int64 [N]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> "Pictures":
        return Pictures(self.pixels[rows], None if self.labels is None else self.labels[rows], self.classes)

    def split(self, share: float, seed: int) -> "tuple[Pictures, Pictures]":
        """All but a random share of the pictures, and that share."""
        order = np.random.default_rng(seed).permutation(len(self))
        held_out = max(1, round(share * len(self)))
        return self.take(order[held_out:]), self.take(order[:held_out])


def paths_below(folder: str) -> list[Path]:
    """The pictures in a folder and in those that it holds, by the endings of their names."""
    return sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())


def read_folder(folder: str, size: int, resize: int, limit: int, seed: int) -> tuple[Pictures, list[tuple[str, str]]]:
    """At most `limit` random pictures below a folder, and the path and fault of each file that could not be read.

    If all of them are in folders of the folder, and these are two or more, each of those is a class. Raises `ConfigError` for
    fewer than `MIN_PICTURES`.
    """
    root, paths = Path(folder).expanduser(), paths_below(folder)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(paths))[:limit])
    squares, names, faults = list[np.ndarray](), list[str](), list[tuple[str, str]]()
    for path in (paths[index] for index in chosen):
        try:
            squares.append(cropped(read_picture(str(path)), size, resize))
            names.append(path.relative_to(root).parts[0] if path.parent != root else "")
        except CoverError as error:
            faults.append((str(path), str(error)))
    if len(squares) < MIN_PICTURES:
        raise ConfigError(
            f"features.image.compression.pictures={folder} has {len(squares)} readable pictures ({', '.join(sorted(ENDINGS))}), "
            f"which are too few to fit a network on: at least {MIN_PICTURES} are needed, and a thousand are better"
        )
    classes = tuple(sorted(set(names)))
    if len(classes) < 2 or "" in classes:
        return Pictures(np.stack(squares)), faults
    return Pictures(np.stack(squares), np.array([classes.index(name) for name in names]), classes), faults


def from_covers(features: pa.Table, size: int, resize: int, limit: int, seed: int) -> Pictures:
    """At most `limit` random covers of the table `features` (`cover_jpeg`). Raises `ConfigError` for fewer than `MIN_PICTURES`."""
    jpegs = features["cover_jpeg"].drop_null()
    chosen = np.sort(np.random.default_rng(seed).permutation(len(jpegs))[:limit])
    if len(chosen) < MIN_PICTURES:
        raise ConfigError(
            f"the table `features` has {len(chosen)} covers, which are too few to fit a network on: at least {MIN_PICTURES} are "
            "needed; name a folder of pictures in features.image.compression.pictures"
        )
    pictures = (Image.open(io.BytesIO(jpegs[int(row)].as_py())).convert("RGB") for row in chosen)
    return Pictures(np.stack([cropped(picture, size, resize) for picture in pictures]))
