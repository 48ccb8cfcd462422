"""A trained ranker with all it needs to score: weights, encoders and the encoded tables of users and items.

The same object scores in evaluation and in serving. On disk it is a folder: `weights.safetensors`, `users.safetensors` and
`items.safetensors` (the encoded tables), their ids as Parquet, and `ranker.json` (settings, encoders). No pickle.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rayrec.config import Ranker, dump
from rayrec.data.batches import Batch
from rayrec.data.context import ContextEncoder
from rayrec.data.examples import RankingData
from rayrec.data.fields import DataError, FieldEncoder, FieldTable, Tables, refuse_not_finite
from rayrec.ranking import models
from rayrec.ranking.model import RankingModel

CPU = torch.device("cpu")
SCORER = "ranker.json"  # written last: where it is, the scorer is whole


@dataclass
class Scorer:
    settings: Ranker
    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    context_encoder: ContextEncoder
    users: FieldTable
    items: FieldTable
    model: RankingModel
    device: torch.device = CPU

    @classmethod
    def build(
        cls,
        settings: Ranker,
        user_encoder: FieldEncoder,
        item_encoder: FieldEncoder,
        context_encoder: ContextEncoder,
        users: FieldTable,
        items: FieldTable,
    ) -> "Scorer":
        """With an untrained model."""
        model = models.build(settings, Tables(users, items, context_encoder.sizes))
        return cls(settings, user_encoder, item_encoder, context_encoder, users, items, model)

    @classmethod
    def untrained(cls, settings: Ranker, data: RankingData) -> "Scorer":
        """For the data that it is to be trained on."""
        return cls.build(settings, data.user_encoder, data.item_encoder, data.context_encoder, data.users, data.items)

    @property
    def item_ids(self) -> list[str]:
        """The video of each item index; index 0 is "no item"."""
        return self.items.ids

    def index_of(self, video_id: str) -> int:
        """The item index of a video, 0 when it is unknown."""
        return self.items.index.get(video_id, 0)

    def with_items(self, table: pa.Table) -> "Scorer":
        """The same weights over the videos of `table` (as `joined_items` makes it), those that training never saw among them.

        Raises `DataError` when the table lacks a column that training had, or holds it otherwise.
        """
        encoder = self.item_encoder
        wanted = [*encoder.vocabularies, *encoder.scales, *encoder.vector_scales]
        for name in wanted:
            if name not in table.column_names:
                raise DataError(f"the ranker was trained with {name!r} of each video, which is not there now; train again")
        refuse_not_finite(table, "video_id", wanted)
        for name, (means, _) in encoder.vector_scales.items():
            size = pc.max(pc.list_value_length(table[name])).as_py()
            if size is not None and size != len(means):
                raise DataError(f"the ranker was trained with {len(means)} numbers in {name!r}, which has {size} now; train again")
        items = encoder.encode(table)
        scorer = Scorer.build(self.settings, self.user_encoder, encoder, self.context_encoder, self.users, items)
        scorer.model.load_state_dict(self.model.state_dict())
        return scorer.to(self.device)

    def to(self, device: torch.device) -> "Scorer":
        self.model.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def score(
        self,
        user_ids: list[str],
        histories: list[np.ndarray],
        history_times: list[np.ndarray],
        at: np.ndarray,
        candidates: np.ndarray,
        contexts: list[dict[str, Any]] | None = None,
    ) -> np.ndarray:
        """Click probabilities float32 [B, N].

        `histories` are B arrays of item indices, oldest first, of any length, and `history_times` the times of the clicks (UTC
        ms); `at` is int64 [B] (UTC ms); `candidates` is an integer array [B, N], in which 0 is padding and scores 0. A context
        maps fields to values; what it lacks is unknown.
        """
        self.model.eval()
        users = np.array([self.users.index.get(user_id, 0) for user_id in user_ids], dtype=np.int64)
        context = self.context_encoder.encode_requests(contexts or [{}] * len(users), np.asarray(at, dtype=np.int64))
        batch = Batch(
            user=torch.from_numpy(users),
            at=torch.from_numpy(np.asarray(at, dtype=np.int64)),
            history=torch.from_numpy(self._padded(histories)),
            history_at=torch.from_numpy(self._padded(history_times)),
            context=torch.from_numpy(context.astype(np.int64)),
            candidates=torch.from_numpy(np.ascontiguousarray(candidates, dtype=np.int64)),
        ).to(self.device)
        probabilities = torch.sigmoid(self.model(batch)).masked_fill(batch.candidates == 0, 0.0)
        return probabilities.float().cpu().numpy()

    def save(self, fs: pafs.FileSystem, folder: str) -> None:
        fs.create_dir(folder, recursive=True)
        facts = {
            "settings": dump(self.settings),
            "users": self.user_encoder.to_json(),
            "items": self.item_encoder.to_json(),
            "context": self.context_encoder.to_json(),
        }
        _write(fs, f"{folder}/weights.safetensors", save_tensors(dict(self.model.state_dict())))
        for name, table in (("users", self.users), ("items", self.items)):
            _write(fs, f"{folder}/{name}.safetensors", save_tensors(table.tensors()))
            pq.write_table(pa.table({"id": table.ids}), f"{folder}/{name}.parquet", filesystem=fs, compression="zstd")
        _write(fs, f"{folder}/{SCORER}", json.dumps(facts).encode())

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str) -> "Scorer":
        facts = json.loads(_read(fs, f"{folder}/{SCORER}"))
        user_encoder, item_encoder = (FieldEncoder(**facts[name]) for name in ("users", "items"))
        users, items = (
            FieldTable.from_tensors(
                pq.read_table(f"{folder}/{name}.parquet", filesystem=fs)["id"].to_pylist(),
                load_tensors(_read(fs, f"{folder}/{name}.safetensors")),
                encoder.sizes(),
            )
            for name, encoder in (("users", user_encoder), ("items", item_encoder))
        )
        context_encoder = ContextEncoder(**facts["context"])
        scorer = cls.build(Ranker(**facts["settings"]), user_encoder, item_encoder, context_encoder, users, items)
        scorer.model.load_state_dict(load_tensors(_read(fs, f"{folder}/weights.safetensors")))
        return scorer

    def _padded(self, histories: list[np.ndarray]) -> np.ndarray:
        """The latest of each line [B, H], oldest first, 0-padded on the left, as `HistoryGather` makes them."""
        length = self.settings.history_length
        padded = np.zeros((len(histories), length), dtype=np.int64)
        for row, history in enumerate(histories):
            latest = history[-length:]
            if len(latest):
                padded[row, -len(latest) :] = latest
        return padded


def _write(fs: pafs.FileSystem, path: str, data: bytes) -> None:
    with fs.open_output_stream(path) as stream:
        stream.write(data)


def _read(fs: pafs.FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as stream:
        return cast(bytes, stream.read())
