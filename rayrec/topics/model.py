"""The topic model: everything that a video's embedding and topics are computed from (encoders, tag vectors, means, centres)."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

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
RIDGE = 0.1  # of the mean of the diagonal, see `_guess`

PAIRS = 3  # of videos, as many as the agreement of all tags counts for in that of one
TELLING = 0.9  # a tag tells all if at least this share of the occurrences of tags is of tags that tell no more

Sums = tuple[np.ndarray, int]  # of a part: over the videos that have it, in double precision, and the number of these videos
Agreement = tuple[np.ndarray, np.ndarray]  # of each tag: the sum of z over its videos [tags, Z], and their number [tags]
Moments = tuple[np.ndarray, np.ndarray]  # z^T z [Z, Z] and z^T e [Z, E] over the videos that have both, in double precision


@dataclass(frozen=True)
class Known:
    """What is known of some videos before it is joined."""

    videos: int
    z: np.ndarray | None  # float32 [videos, Z], zeros where nothing is known; None for a catalog without covers and titles
    tags: sp.csr_matrix | None  # which video has which of the model's tags, 0/1 [videos, tags]; None without tags


@dataclass
class TopicModel:
    representation: Representation | None  # None for a catalog without covers and titles
    tags: list[str]
    tag_vectors: np.ndarray  # float32 [tags, tag_size]
    tag_weights: np.ndarray | None = None  # float32 [tags], 0..1: how much each tag tells; None if z can't say it
    means: list[np.ndarray] = field(default_factory=list)  # the mean vector of each part
    guess: np.ndarray | None = None  # float32 [Z, E]: e from z, for videos whose tags tell little; None without z or tags
    centres: np.ndarray = field(default_factory=lambda: np.empty((0, 1), np.float32))  # L2-normalised [topics, size]

    @property
    def weights(self) -> list[float]:
        """Of each part in the join. They matter only for videos that have both: a single part is made as long as any other."""
        weights = [] if self.representation is None else [self.representation.settings.z_weight]
        return [*weights, 1.0] if self.tags else weights

    def tags_of(self, catalog: pa.Table) -> sp.csr_matrix:
        """Which video has which of the model's tags, 0/1 [videos, tags]."""
        return incidence_of(catalog["tags"], self.tags)

    def known(self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU) -> Known:
        """z and the tags of each video, as far as the model has them."""
        z = None
        if self.representation is not None:
            contents = self.representation.contents(catalog, vectors, features)
            encoders = self.representation.encoders.to(device)
            z = encode(encoders, contents, np.arange(catalog.num_rows), device, ENCODED_AT_ONCE) * contents.mask()[:, None]
            encoders.to(CPU)
        return Known(catalog.num_rows, z, self.tags_of(catalog) if self.tags else None)

    def parts(self, known: Known) -> list[np.ndarray]:
        """z and e of each video, as far as the model has them. A row of zeros means that nothing is known of the video."""
        found = [] if known.z is None else [known.z]
        if known.tags is not None:
            weighted = known.tags if self.tag_weights is None else known.tags.multiply(self.tag_weights).tocsr()
            found.append(mean_tag_vectors(weighted, self.tag_vectors))
        return found

    def fit_join(
        self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit the join to this catalog, and `join` it."""
        known = self.known(catalog, vectors, features, device)
        self.fit(lambda work, *arguments: [work(known, *arguments)])
        return self.joined(known)

    def fit(self, over: Callable[..., Iterable[Any]]) -> None:
        """Fit the weights of the tags, the means and the guess to all videos.

        `over(work, *arguments)` yields `work(known, *arguments)` for each block of them.
        """
        self.tag_weights, self.means, self.guess = None, [], None
        if self.representation is not None and self.tags:
            self.means = _means(over(sums_of_z))
            self.tag_weights = _weights(over(agreement, self))
        self.means = _means(over(sums_of, self))
        if self.representation is not None and self.tags:
            self.guess = _guess(over(moments, self))

    def centred(self, known: Known) -> list[np.ndarray]:
        """The parts less their means, each row of length 1 or 0."""
        return [normalize(centred(part, mean)) for part, mean in zip(self.parts(known), self.means, strict=False)]

    def telling(self, known: Known) -> np.ndarray:
        """How much the tags of each video tell, 0 to 1, float32 [videos]: as much as the best of them."""
        assert known.tags is not None
        weights = np.ones(len(self.tags), np.float32) if self.tag_weights is None else self.tag_weights
        return known.tags.multiply(weights).max(axis=1).toarray().ravel().astype(np.float32)

    def join(
        self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, device: torch.device = CPU
    ) -> tuple[np.ndarray, np.ndarray]:
        """`a` of each video, L2-normalised float32 [videos, size], and the mask of the videos of which something is known."""
        return self.joined(self.known(catalog, vectors, features, device))

    def joined(self, known: Known) -> tuple[np.ndarray, np.ndarray]:
        """What `join` returns, from what is known of some videos. The less the tags tell, the more e is what z suggests."""
        parts = self.centred(known)
        if not parts:
            return np.empty((known.videos, 1), np.float32), np.zeros(known.videos, dtype=bool)
        if self.guess is not None:
            z, e = parts
            telling = self.telling(known)[:, None]
            parts = [z, telling * e + (1 - telling) * (z @ self.guess)]
        joint: np.ndarray = join(parts, self.weights)
        return joint, np.any(joint, axis=1)

    def save(self, fs: pafs.FileSystem, folder: str) -> None:
        """Write the encoders, weights of tags, means and guess. Tag vectors and centres are tables of the stage."""
        if self.representation is not None:
            self.representation.save(fs, f"{folder}/{ENCODERS}")
        record = {"tag_weights": self.tag_weights, "means": self.means, "guess": self.guess}
        with fs.open_output_stream(f"{folder}/{JOIN}") as stream:
            stream.write(json.dumps(record, default=np.ndarray.tolist).encode())

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
        if "tag_weights" not in record:
            raise RayrecError(FOREIGN.format(folder))
        weights, guess = (None if record[name] is None else np.array(record[name], np.float32) for name in ("tag_weights", "guess"))
        means = [np.array(mean, dtype=np.float32) for mean in record["means"]]
        tags, centres = read("tag_vectors"), read("topic_centres")
        return cls(
            Representation.load(fs, f"{folder}/{ENCODERS}") if has_encoders else None,
            tags["tag"].to_pylist(),
            _rows(tags["vector"]),
            weights,
            means,
            guess,
            _rows(centres["centre"]),
        )


# --- what a block of videos adds to the fit -------------------------------------------------------------------------------------


def sums_of_z(known: Known) -> list[Sums]:
    """What some videos add to the mean of z."""
    return [] if known.z is None else [_sum(known.z)]


def sums_of(known: Known, model: TopicModel) -> list[Sums]:
    """What some videos add to the mean of each part."""
    return [_sum(part) for part in model.parts(known)]


def agreement(known: Known, model: TopicModel) -> Agreement:
    """What some videos add to the agreement of each tag. The model has the mean of z."""
    assert known.tags is not None
    z = model.centred(known)[0].astype(np.float64)
    return known.tags.T @ z, known.tags.T @ z.any(axis=1).astype(np.int64)


def moments(known: Known, model: TopicModel) -> Moments:
    """What some videos add to the guess; each video counts as much as its tags tell."""
    z, e = (part.astype(np.float64) for part in model.centred(known))
    weighted = z * model.telling(known)[:, None]
    return weighted.T @ z, weighted.T @ e


def _sum(part: np.ndarray) -> Sums:
    return part.sum(axis=0, dtype=np.float64), int(part.any(axis=1).sum())


def _means(sums: Iterable[list[Sums]]) -> list[np.ndarray]:
    """The mean of each part over all videos that have it."""
    return [
        (sum(total for total, _ in part) / max(1, sum(count for _, count in part))).astype(np.float32)
        for part in zip(*sums, strict=True)
    ]


def _weights(found: Iterable[Agreement]) -> np.ndarray | None:
    """How much each tag tells, from the mean cosine between the z of any two of its videos.

    Videos with a tag such as `fyp` have no more in common than any two videos. Of a rare tag little is known, and so it is taken to
    tell about as much as all tags do on average. None if no tag has two videos.
    """
    totals, videos = (sum(each) for each in zip(*found, strict=True))
    pairs = videos * (videos - 1) / 2
    if not pairs.any():  # what the cosines would say then is rounding
        return None
    cosines = ((totals**2).sum(axis=1) - videos) / 2  # the sum over all pairs
    mean = cosines.sum() / max(1, pairs.sum())
    telling = np.maximum((cosines + PAIRS * mean) / (pairs + PAIRS), 0)
    order = np.argsort(telling, kind="stable")
    occurrences = np.cumsum(videos[order])
    most = telling[order][min(np.searchsorted(occurrences, TELLING * occurrences[-1]), len(order) - 1)]
    return None if most <= 0 else np.minimum(telling / most, 1).astype(np.float32)


def _guess(found: Iterable[Moments]) -> np.ndarray:
    """The ridge regression from z to e of the videos that have both.

    Without it, a video without tags is far from all that have tags, whatever its title says: their e is longer than z.
    """
    squares, products = (sum(each) for each in zip(*found, strict=True))
    ridge = RIDGE * max(np.trace(squares) / len(squares), 1e-9)
    return np.linalg.solve(squares + ridge * np.eye(len(squares)), products).astype(np.float32)


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
