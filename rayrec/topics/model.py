"""The topic model: everything that a video's embedding and topics are computed from (encoders, tag vectors, means, centres)."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import scipy.sparse as sp
import torch
from sklearn.preprocessing import normalize

from rayrec.errors import RayrecError
from rayrec.topics.representation import FOREIGN, Representation, encode
from rayrec.topics.tag_graph import incidence_of, mean_tag_vectors
from rayrec.training.trainer import CPU

ENCODED_AT_ONCE = 1024
ENCODERS, JOIN = "encoders", "join.json"
RIDGE = 0.1  # of the mean of the diagonal, see `fit_guess`

Sums = tuple[np.ndarray, int]  # of a part: over the videos that have it, in double precision, and the number of these videos
Moments = tuple[np.ndarray, np.ndarray]  # z^T z [Z, Z] and z^T e [Z, E] over the videos that have both, in double precision


@dataclass
class TopicModel:
    representation: Representation | None  # None for a catalog without covers and titles
    tags: list[str]
    tag_vectors: np.ndarray  # float32 [tags, tag_size]
    means: list[np.ndarray] = field(default_factory=list)  # the mean vector of each part
    guess: np.ndarray | None = None  # float32 [Z, E]: e of a video without known tags, from z; None without z or tags
    centres: np.ndarray = field(default_factory=lambda: np.empty((0, 1), np.float32))  # L2-normalised [topics, size]

    @property
    def weights(self) -> list[float]:
        """Of each part in the join. They matter only for videos that have both: a single part is made as long as any other."""
        weights = [] if self.representation is None else [self.representation.settings.z_weight]
        return [*weights, 1.0] if self.tags else weights

    def tags_of(self, catalog: pa.Table) -> sp.csr_matrix:
        """Which video has which of the model's tags, 0/1 [videos, tags]."""
        return incidence_of(catalog["tags"], self.tags)

    def parts(
        self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU
    ) -> list[np.ndarray]:
        """z and e of each video, as far as the model has them. A row of zeros means that nothing is known of the video."""
        found = []
        if self.representation is not None:
            contents = self.representation.contents(catalog, vectors, features)
            encoders = self.representation.encoders.to(device)
            z = encode(encoders, contents, np.arange(catalog.num_rows), device, ENCODED_AT_ONCE)
            encoders.to(CPU)
            found.append(z * contents.mask()[:, None])
        if self.tags:
            found.append(mean_tag_vectors(self.tags_of(catalog), self.tag_vectors))
        return found

    def fit_join(
        self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit the means of the parts and the guess to this catalog, and `join` it."""
        parts = self.parts(catalog, vectors, features, device)
        self.fit_means([sums_of(parts)])
        self.fit_guess([self.moments(parts)])
        return self.joined(parts, catalog.num_rows)

    def fit_means(self, sums: Iterable[list[Sums]]) -> None:
        """Set the mean of each part to that over all videos that have it; `sums` are those of one or several blocks of videos."""
        self.means = [
            (sum(total for total, _ in part) / max(1, sum(count for _, count in part))).astype(np.float32)
            for part in zip(*sums, strict=True)
        ]

    def moments(self, parts: list[np.ndarray]) -> Moments | None:
        """What some videos add to the guess; None without z or tags."""
        if len(parts) < 2 or not len(parts[0]):
            return None
        z, e = (normalize(part).astype(np.float64) for part in self._centred(parts))
        both = z.any(axis=1) & e.any(axis=1)
        return z[both].T @ z[both], z[both].T @ e[both]

    def fit_guess(self, moments: Iterable[Moments | None]) -> None:
        """Set the guess: the ridge regression from z to e of the videos that have both; `moments` are those of all blocks.

        Without it, a video without tags is far from all that have tags, whatever its title says: their e is longer than z.
        """
        found = [each for each in moments if each is not None]
        if found:
            squares, products = (sum(each) for each in zip(*found, strict=True))
            ridge = RIDGE * max(np.trace(squares) / len(squares), 1e-9)
            self.guess = np.linalg.solve(squares + ridge * np.eye(len(squares)), products).astype(np.float32)

    def _centred(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        return [centred(part, mean) for part, mean in zip(parts, self.means, strict=True)]

    def join(
        self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU
    ) -> tuple[np.ndarray, np.ndarray]:
        """`a` of each video, L2-normalised float32 [videos, size], and the mask of the videos of which something is known."""
        return self.joined(self.parts(catalog, vectors, features, device), catalog.num_rows)

    def joined(self, parts: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
        """What `join` returns, from the `parts` of so many videos."""
        if not parts:
            return np.empty((count, 1), np.float32), np.zeros(count, dtype=bool)
        known = self._centred(parts)
        if self.guess is not None:
            z, e = known
            gone = z.any(axis=1) & ~e.any(axis=1)
            if gone.any():
                e[gone] = normalize(z[gone]) @ self.guess
        joint: np.ndarray = join(known, self.weights)
        return joint, np.any(joint, axis=1)

    def save(self, fs: pafs.FileSystem, folder: str) -> None:
        """Write the encoders, means and guess. Tag vectors and centres are tables of the stage."""
        if self.representation is not None:
            self.representation.save(fs, f"{folder}/{ENCODERS}")
        guess = None if self.guess is None else self.guess.tolist()
        with fs.open_output_stream(f"{folder}/{JOIN}") as stream:
            stream.write(json.dumps({"means": [mean.tolist() for mean in self.means], "guess": guess}).encode())

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str, read: Callable[[str], pa.Table]) -> "TopicModel":
        """The model in the folder of a version of the stage `topics`. `read` returns a table of that version by its name.

        Raises `RayrecError` for one that another version of rayrec wrote.
        """
        has_encoders = fs.get_file_info(f"{folder}/{ENCODERS}").type == pafs.FileType.Directory
        if not fs.get_file_info(f"{folder}/{JOIN}").is_file:
            raise RayrecError(FOREIGN.format(folder))
        with fs.open_input_file(f"{folder}/{JOIN}") as file:
            record = json.loads(file.read())
        means = [np.array(mean, dtype=np.float32) for mean in record["means"]]
        guess = None if record["guess"] is None else np.array(record["guess"], dtype=np.float32)
        tags, centres = read("tag_vectors"), read("topic_centres")
        return cls(
            Representation.load(fs, f"{folder}/{ENCODERS}") if has_encoders else None,
            tags["tag"].to_pylist(),
            _rows(tags["vector"]),
            means,
            guess,
            _rows(centres["centre"]),
        )


def sums_of(parts: list[np.ndarray]) -> list[Sums]:
    """What some videos add to the mean of each part."""
    return [(part.sum(axis=0, dtype=np.float64), int(part.any(axis=1).sum())) for part in parts]


def centred(part: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The part less its mean, except for rows of zeros. The paper joins the parts as they are.

    The mean, which all vectors share, makes every cosine high: in the demo world every video was within 0.6 of every topic.
    """
    return part - mean * part.any(axis=1, keepdims=True)


def join(parts: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """`a` of Pu et al., float32 [videos, size]: the L2-normalised parts, concatenated, and L2-normalised again.

    The paper weighs them alike. Where z is learned from few videos it says less than the tags.
    """
    found = [weight * normalize(part) for part, weight in zip(parts, weights, strict=True)]
    return normalize(np.concatenate(found, axis=1)).astype(np.float32)


def _rows(vectors: pa.ChunkedArray) -> np.ndarray:
    return np.stack(vectors.to_numpy()).astype(np.float32) if len(vectors) else np.empty((0, 1), np.float32)
