"""A video that was added while the service runs: what is known of it, and the JSON that the state store keeps.

The row holds all that recall and rankers need, so that they read neither the media nor the networks: the catalog's columns, the
topics, the joint vector, and the reduced vector of each modality; and the features of each modality, if the service searches. All
but the catalog's columns mean something to one model alone, that is the networks, reductions and topics of a bundle
(`serving/placing.py`); bundles that share these have the same `Bundle.model`.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.errors import RayrecError
from rayrec.serving.state.store import Addition
from rayrec.tables import IDS, TEXT, VECTOR, conform, spec_of

FACTS = tuple(spec_of("catalog").schema.names)
NO_MODEL = ""  # the model of a video of which nothing but the catalog's columns is known


def described_by(additions: Sequence[Addition], model: str) -> list[Addition]:
    """Those that a model describes, and those of which nothing but the catalog's columns is known, which are the same to all."""
    return [addition for addition in additions if addition.model in (model, NO_MODEL)]


class RejectedError(RayrecError):
    """Nothing could be read from a video; the message says why, as `rejects` of `extract` would."""


@dataclass(frozen=True)
class AddedVideo:
    """A new video as a model describes it."""

    facts: dict[str, Any]  # FACTS, the catalog's columns; None where nothing is known
    topics: list[int] = field(default_factory=list)  # the most similar first
    similarity: list[float] = field(default_factory=list)  # to the centre of each topic
    vector: np.ndarray | None = None  # float32, the joint vector: of length 1
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # float32, the reduced vector of each modality
    cover: str | None = None  # the file of its JPEG, in the folder of covers
    features: dict[str, np.ndarray] = field(default_factory=dict)  # float32, what `extract` gives of each modality, for search

    @property
    def video_id(self) -> str:
        return str(self.facts["video_id"])

    def to_json(self) -> str:
        row = {
            "facts": self.facts,
            "topics": self.topics,
            "similarity": self.similarity,
            "vector": _packed(self.vector),
            "vectors": {name: _packed(vector) for name, vector in self.vectors.items()},
            "cover": self.cover,
            "features": {name: _packed(vector) for name, vector in self.features.items()},
        }
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, row: str) -> "AddedVideo":
        values = json.loads(row)
        for column in ("vectors", "features"):
            values[column] = {name: _unpacked(vector) for name, vector in values.get(column, {}).items()}
        return cls(**values | {"vector": _unpacked(values["vector"])})


def item_table(videos: Sequence[AddedVideo]) -> pa.Table:
    """The videos as rankers read items: the catalog with topics and vectors joined (`data.loading.join_items`)."""
    schema = spec_of("catalog").schema
    columns = {name: pa.array([video.facts.get(name) for video in videos], schema.field(name).type) for name in FACTS}
    columns["topics"] = pa.array([video.topics or None for video in videos], IDS)
    for name in sorted({name for video in videos for name in video.vectors}):
        columns[name] = pa.array([video.vectors.get(name) for video in videos], VECTOR)
    return pa.table(columns)


def catalog_table(videos: Sequence[AddedVideo]) -> pa.Table:
    """The videos as rows of the catalog."""
    return item_table(videos).select(FACTS)


def features_table(videos: Sequence[AddedVideo]) -> pa.Table:
    """The videos as rows of the table `features`."""
    names = sorted({name for video in videos for name in video.features})
    columns = {name: pa.array([video.features.get(name) for video in videos], VECTOR) for name in names}
    ids = pa.array([video.video_id for video in videos], TEXT)
    return conform("features", pa.table({"video_id": ids, "status": pa.array(["ok"] * len(videos), TEXT)} | columns))


def _packed(vector: np.ndarray | None) -> str | None:
    return None if vector is None else base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def _unpacked(text: str | None) -> np.ndarray | None:
    return None if text is None else np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
