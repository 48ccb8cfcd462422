"""The search model: the space, the tags that expand a query, and the score from which on a video counts as found.

space.safetensors    the projections, and the vectors of the tags
space.json           the settings, the names of the tags, and the floor of each modality
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import safetensors.torch
import torch
from pydantic import ValidationError
from sklearn.preprocessing import normalize

from rayrec.config import Features, Search, dump
from rayrec.errors import RayrecError
from rayrec.retrieval.fitting import split
from rayrec.retrieval.inputs import TEXT, Inputs, inputs_of
from rayrec.retrieval.labels import Labels
from rayrec.retrieval.space import Space, mean_of, projected
from rayrec.workspace.files import from_json, read_whole, to_json, write_whole

WEIGHTS, RECORD = "space.safetensors", "space.json"
KEYS, CENTRES = "tag_keys", "tag_centres"  # beside the weights
MAX_UNRELATED = 1000  # held-out videos on which the floor is measured
FOREIGN = "{}: the search index was made by another version of rayrec; run `rayrec search_index CONFIG --force`"


@dataclass
class SearchModel:
    """What turns videos and queries into vectors that can be compared."""

    space: Space
    settings: Search
    features: Features  # those that made the inputs; a query has to be read by the same networks
    seed: int  # of networks with random weights
    tags: list[str] = field(default_factory=list)
    tag_keys: np.ndarray = field(default_factory=lambda: np.empty((0, 1), np.float32))  # what the tags say, [T, S]
    tag_centres: np.ndarray = field(default_factory=lambda: np.empty((0, 1), np.float32))  # where their videos are, [T, S]
    floors: dict[str, float] = field(default_factory=dict)  # of a query by each modality

    @property
    def hashes_titles(self) -> bool:
        """Whether no network reads titles, so that their hashed words stand for them."""
        return self.features.text is None

    def inputs(self, features: pa.Table, titles: list[str | None]) -> Inputs:
        """What the space reads of the rows of a table `features`, whose videos have these titles."""
        return inputs_of(features, list(self.space.sizes), titles if self.hashes_titles else None)

    def video_vectors(self, inputs: Inputs) -> np.ndarray:
        """The vector of each video, float32 [N, S]; zeros for one that has nothing that the space reads."""
        return mean_of(projected(self.space, inputs), inputs.count, self.space.size)

    def query_vectors(self, modality: str, values: np.ndarray) -> tuple[np.ndarray, list[list[str]]]:
        """The vectors of queries that are given by a modality's features [Q, D], and the tags that each moved towards.

        A query moves towards the videos of the tags nearest to it (as Rocchio's relevance feedback, 1971, moves one towards the
        documents that were found). Words are compared with what the tags say, pictures and sounds with where their videos are.
        """
        asked = Inputs.of_rows(len(values), {modality: (np.ones(len(values), dtype=bool), values)})
        vectors = projected(self.space, asked)[modality]
        count = min(self.settings.expansion_tags, len(self.tags))
        if not count or not self.settings.expansion:
            return vectors, [[] for _ in vectors]
        near = vectors @ (self.tag_keys if modality == TEXT else self.tag_centres).T
        nearest = np.argsort(-near, axis=1, kind="stable")[:, :count]
        weights = np.maximum(np.take_along_axis(near, nearest, axis=1), 0)
        towards = normalize((weights[:, :, None] * self.tag_centres[nearest]).sum(axis=1))
        names = [
            [self.tags[tag] for tag, weight in zip(*each, strict=True) if weight > 0] for each in zip(nearest, weights, strict=True)
        ]
        return np.asarray(normalize(vectors + self.settings.expansion * towards), dtype=np.float32), names

    def fit_tags(self, texts: np.ndarray, labels: Labels, vectors: np.ndarray) -> None:
        """Set the tags to those of these videos, whose vectors are given; `texts` are the text features of the tags [T, D]."""
        asked = Inputs.of_rows(len(texts), {TEXT: (np.ones(len(texts), dtype=bool), texts)})
        centres = np.asarray(normalize(labels.tags.T @ vectors), dtype=np.float32)
        self.tags, self.tag_keys, self.tag_centres = labels.names, projected(self.space, asked)[TEXT], centres

    def fit_floors(self, inputs: Inputs, labels: Labels) -> None:
        """Set the floor of each modality: the score that the wanted share of unrelated held-out videos stays below."""
        _, rows = split(inputs.count, self.settings.held_out, self.seed)
        rows = rows[:MAX_UNRELATED]
        some = inputs.take(rows)
        unrelated = ~((labels.likeness(rows, rows) > 0) | np.eye(len(rows), dtype=bool))
        vectors = self.video_vectors(some)
        for name in self.space.sizes:
            asks = some.present[name]
            scores = self.query_vectors(name, some.values[name][asks])[0] @ vectors.T
            scores = scores[unrelated[asks] & vectors.any(axis=1)]
            self.floors[name] = float(np.quantile(scores, self.settings.floor)) if len(scores) else 0.0

    def save(self, fs: pafs.FileSystem, folder: str) -> None:
        """Write it as safetensors and JSON."""
        arrays = {KEYS: self.tag_keys, CENTRES: self.tag_centres}
        tensors = self.space.state_dict() | {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in arrays.items()}
        record: dict[str, Any] = {
            "sizes": self.space.sizes,
            "settings": dump(self.settings),
            "features": dump(self.features),
            "seed": self.seed,
            "tags": self.tags,
            "floors": self.floors,
        }
        write_whole(fs, f"{folder}/{WEIGHTS}", safetensors.torch.save(tensors))
        write_whole(fs, f"{folder}/{RECORD}", to_json(record))

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str) -> "SearchModel":
        """Raises `RayrecError` for one that another version of rayrec wrote, and `FileNotFoundError` where there is none."""
        record, tensors = (
            from_json(read_whole(fs, f"{folder}/{RECORD}")),
            safetensors.torch.load(read_whole(fs, f"{folder}/{WEIGHTS}")),
        )
        keys, centres = (tensors.pop(name).numpy() for name in (KEYS, CENTRES))
        try:
            settings, features = Search.model_validate(record["settings"]), Features.model_validate(record["features"])
            space = Space(record["sizes"], settings)
            space.load_state_dict(tensors)
        except (ValidationError, RuntimeError, KeyError) as error:
            raise RayrecError(FOREIGN.format(folder)) from error
        return cls(space.eval(), settings, features, record["seed"], record["tags"], keys, centres, record["floors"])


def title_rows(catalog: pa.Table, ids: pa.ChunkedArray) -> list[str | None]:
    """The titles of these videos; None for one that has none or is not in the catalog."""
    import pyarrow.compute as pc

    at = pc.index_in(ids, value_set=catalog["video_id"].combine_chunks())
    titles: Sequence[str | None] = catalog["title"].combine_chunks().take(at.combine_chunks()).to_pylist()
    return list(titles)


def floors_in_words(floors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {floor:.2f}" for name, floor in floors.items())
