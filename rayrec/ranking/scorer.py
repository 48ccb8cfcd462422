"""A trained ranker with everything that it needs to score: weights, encoders and the encoded tables of users and items.

The same object scores in evaluation and in serving. On disk it is a folder: `weights.safetensors`, `users.safetensors` and
`items.safetensors` (the encoded tables), their ids as Parquet, and `ranker.json` (`SavedRanker`); for a model that knows popularity
`popularity.safetensors` (`FadingCounts`), too. There is no pickle.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch
from pydantic import ConfigDict, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rayrec.config import Ranker, Section
from rayrec.config.wording import wording
from rayrec.data.batches import Batch
from rayrec.data.context import ContextEncoder
from rayrec.data.encoders import FittedEncoders
from rayrec.data.errors import DataError
from rayrec.data.fields import FieldEncoder, FieldTable, Tables, refuse_not_finite
from rayrec.data.history import ClickHistory
from rayrec.data.loading import RankingData
from rayrec.data.popularity import FadingCounts
from rayrec.data.windows import HistoryGather
from rayrec.errors import RayrecError
from rayrec.ranking import models
from rayrec.ranking.embedding import Inputs
from rayrec.ranking.frozen import TooLargeError
from rayrec.ranking.goals import SeveralGoals
from rayrec.ranking.model import RankingModel
from rayrec.ranking.told import told_users
from rayrec.tables import MAPS, TEXT, VECTOR
from rayrec.training.trainer import CPU
from rayrec.workspace.files import read_whole, write_whole

RETRAIN = "run `rayrec train CONFIG` again, and `rayrec publish CONFIG` where the ranker is served"
POPULARITY, COUNTS = "popularity.safetensors", ("key", "sums", "half_lives")
SCORER = "ranker.json"  # written last, so that a folder which has it is complete


class RankerError(RayrecError):
    """A saved ranker can't be loaded; the message names the file and what to run."""


class SavedRanker(Section):
    """The content of `ranker.json`."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # added to those of `Section`

    settings: Ranker
    users: FieldEncoder
    items: FieldEncoder
    context: ContextEncoder


@dataclass
class Scorer:
    """A model with the encoders and tables that turn ids into its inputs."""

    settings: Ranker
    user_encoder: FieldEncoder
    item_encoder: FieldEncoder
    context_encoder: ContextEncoder
    users: FieldTable
    items: FieldTable
    model: RankingModel
    popularity: FadingCounts | None = None  # if the settings ask for it
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
        popularity: FadingCounts | None = None,
    ) -> "Scorer":
        """A scorer with an untrained model."""
        model = models.build(settings, Tables(users, items, context_encoder.sizes, popularity))
        return cls(settings, user_encoder, item_encoder, context_encoder, users, items, model, popularity)

    @classmethod
    def untrained(cls, settings: Ranker, data: RankingData) -> "Scorer":
        """A scorer with an untrained model, for the data on which it is to be trained."""
        fitted = data.encoders
        encoders = fitted.user_encoder, fitted.item_encoder, fitted.context_encoder
        return cls.build(settings, *encoders, fitted.users, fitted.items, data.popularity(settings))

    @property
    def item_ids(self) -> list[str]:
        """The video of each item index; index 0 is "no item"."""
        return self.items.ids

    def index_of(self, video_id: str) -> int:
        """The item index of a video, 0 when it is unknown."""
        return self.items.index.get(video_id, 0)

    def fits(self, fitted: FittedEncoders) -> bool:
        """Whether users and items are those of the training, and whether what was fitted to them with this base knows no more."""
        own, others = self.items.tensors(), fitted.items.tensors()
        return (self.users.ids, self.items.ids) == (fitted.users.ids, fitted.items.ids) and (
            (self.user_encoder, self.item_encoder, self.context_encoder)
            == (fitted.user_encoder, fitted.item_encoder, fitted.context_encoder)
            and all(torch.equal(tensor, others[name]) for name, tensor in own.items())
        )

    def with_items(self, table: pa.Table) -> "Scorer":
        """The same weights over the videos of `table` (as `joined_items` makes it), also over videos that training never saw.

        Raises `DataError` when the table lacks a column that training had, or holds vectors of another size.
        """
        for name in self._columns:
            if name not in table.column_names:
                raise DataError(f"the ranker was trained with {name!r} of each video, which is not there now; {RETRAIN}")
        items = self._encoded(table)
        popularity = self.popularity and self.popularity.renumbered(items.rows_of(pa.array(self.item_ids, TEXT)))
        return self.over(items, popularity)

    def over(self, items: FieldTable, popularity: FadingCounts | None) -> "Scorer":
        """The same weights over other items, or with other counts of how popular they are."""
        encoders = self.user_encoder, self.item_encoder, self.context_encoder
        scorer = Scorer.build(self.settings, *encoders, self.users, items, popularity)
        scorer.model.load_state_dict(self.model.state_dict())  # the tables are not part of it
        return scorer.to(self.device)

    def append_items(self, table: pa.Table) -> None:
        """More items behind the others, of videos that training never saw. They are scored from their content.

        What the table lacks of a video's columns is unknown. The cost depends on these items alone. `item_ids` and `save` don't
        know them. Raises `DataError` for numbers that are not finite and vectors of another size than training had.
        """
        encoder = self.item_encoder
        kinds: dict[str, pa.DataType] = dict.fromkeys(encoder.vocabularies, TEXT)
        kinds |= {name: pa.list_(TEXT) for name in encoder.multivalued}
        kinds |= dict.fromkeys(encoder.scales, pa.float64()) | dict.fromkeys(encoder.vector_scales, VECTOR)
        kinds |= {MAPS: VECTOR} if encoder.maps else {}
        for name in kinds.keys() - set(table.column_names):
            table = table.append_column(name, pa.nulls(table.num_rows, kinds[name]))
        encoded = self._encoded(table)
        self.model.append_items(encoded)
        if self.model.user_kernels is not None:
            self.model.user_kernels.append_items(encoded)

    @torch.inference_mode()
    def freeze(self, max_bytes: float) -> int:
        """Computes what the model makes of each item alone once, for a ranker that only scores from now on.

        Scores stay the same to rounding. Returns the memory that it takes; 0 where nothing can be frozen (`lr`, and fusion by
        `user_attention`), and where it would take more than `max_bytes`.
        """
        self.model.eval()
        every = [module for module in self.model.modules() if isinstance(module, Inputs)]
        try:
            for inputs in every:
                inputs.freeze(max_bytes / len(every))
            nothing = np.zeros(1, np.int64)
            self.score([""], [nothing], [nothing], nothing, nothing[None])  # the layers' parts, too
        except TooLargeError:
            for inputs in every:
                inputs.frozen = None
            return 0
        return sum(inputs.frozen.bytes for inputs in every if inputs.frozen is not None)

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
        told: list[str] | None = None,
    ) -> np.ndarray:
        """Click probabilities float32 [B, N]; with `ranker.shown_half_life` numbers that order a page likewise, from 0 to 1.

        Of a ranker with several goals, the value of each [B, N, G]: `config.scored` makes one score of them.

        `histories` are B arrays of item indices, oldest first, of any length, and `history_times` the times of the clicks (UTC
        ms); `at` is int64 [B] (UTC ms); `candidates` is an integer array [B, N], in which 0 is padding and scores 0. A context
        maps fields to values; a missing field is unknown. `told` has a JSON object (column of the table of users -> value) of each
        user of whom a caller has said something, which counts instead of what training knew, and "" of the others.
        """
        if self.model.training:
            self.model.eval()
        users = np.array([self.users.index.get(user_id, 0) for user_id in user_ids], dtype=np.int64)
        if rows := [row for row, text in enumerate(told or []) if text]:
            table = told_users(self.user_encoder, [user_ids[row] for row in rows], [told[row] for row in rows])  # type: ignore[index]
            self.model.append_users(self.user_encoder.encode(table))
            users[rows] = len(self.users.ids) + np.arange(len(rows))
        context = self.context_encoder.encode_requests(contexts or [{}] * len(users), np.asarray(at, dtype=np.int64))
        history, history_at = self._windows(histories, history_times)
        batch = Batch(
            user=torch.from_numpy(users),
            at=torch.from_numpy(np.asarray(at, dtype=np.int64)),
            history=history,
            history_at=history_at,
            context=torch.from_numpy(context.astype(np.int64)),
            candidates=torch.from_numpy(np.ascontiguousarray(candidates, dtype=np.int64)),
        ).to(self.device)
        try:
            if isinstance(self.model, SeveralGoals):
                values = self.model.values(batch).masked_fill((batch.candidates == 0)[..., None], 0.0)
            else:
                values = torch.sigmoid(self.model.page_score(batch)).masked_fill(batch.candidates == 0, 0.0)
        finally:
            if rows:
                self.model.drop_users()
        return values.float().cpu().numpy()

    def save(self, fs: pafs.FileSystem, folder: str) -> None:
        fs.create_dir(folder, recursive=True)
        write_whole(fs, f"{folder}/weights.safetensors", save_tensors(dict(self.model.state_dict())))
        for name, table in (("users", self.users), ("items", self.items)):
            write_whole(fs, f"{folder}/{name}.safetensors", save_tensors(table.tensors()))
            pq.write_table(pa.table({"id": table.ids}), f"{folder}/{name}.parquet", filesystem=fs, compression="zstd")
        if self.popularity is not None:
            counts = {name: torch.from_numpy(getattr(self.popularity, name)) for name in COUNTS}
            write_whole(fs, f"{folder}/{POPULARITY}", save_tensors(counts | {"items": torch.tensor(self.popularity.items)}))
        saved = SavedRanker(settings=self.settings, users=self.user_encoder, items=self.item_encoder, context=self.context_encoder)
        write_whole(fs, f"{folder}/{SCORER}", saved.model_dump_json().encode())

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str) -> "Scorer":
        """Raises `RankerError` for a folder that this version can't read, and `ConfigError` for a model that is not there."""
        saved = _read_saved(fs, f"{folder}/{SCORER}")
        users, items = (
            FieldTable.from_tensors(
                pq.read_table(f"{folder}/{name}.parquet", filesystem=fs)["id"].to_pylist(),
                load_tensors(read_whole(fs, f"{folder}/{name}.safetensors")),
                encoder,
            )
            for name, encoder in (("users", saved.users), ("items", saved.items))
        )
        popularity = _read_counts(fs, f"{folder}/{POPULARITY}") if saved.settings.half_lives else None
        scorer = cls.build(saved.settings, saved.users, saved.items, saved.context, users, items, popularity)
        weights = f"{folder}/weights.safetensors"
        try:
            scorer.model.load_state_dict(load_tensors(read_whole(fs, weights)))
        except RuntimeError as error:
            raise RankerError(
                f"{weights}: the weights are not those of the model {saved.settings.model!r} as this version builds it; "
                f"{RETRAIN} ({' '.join(str(error).split())[:200]})"
            ) from error
        return scorer

    @property
    def _columns(self) -> list[str]:
        """The columns of the item table that training had."""
        encoder = self.item_encoder
        return [*encoder.vocabularies, *encoder.scales, *encoder.vector_scales, *([MAPS] if encoder.maps else [])]

    def _encoded(self, table: pa.Table) -> FieldTable:
        """The encoded rows. Raises `DataError` for numbers that are not finite, and vectors of another size than training had."""
        encoder = self.item_encoder
        refuse_not_finite(table, "video_id", self._columns)
        for name, (means, _) in encoder.vector_scales.items():
            size = pc.max(pc.list_value_length(table[name])).as_py()
            if size is not None and size != len(means):
                raise DataError(f"the ranker was trained with {len(means)} numbers in {name!r}, which has {size} now; {RETRAIN}")
        return encoder.encode(table)

    def _windows(self, histories: list[np.ndarray], times: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Items and times [B, H] of the clicks that the model reads of each history, by the code that training uses."""
        ends = np.cumsum([0, *map(len, histories)])
        clicks = ClickHistory(ends, np.concatenate(histories).astype(np.int32), np.concatenate(times).astype(np.int64))
        return HistoryGather(clicks, self.model.window, CPU)(torch.arange(len(histories)), torch.from_numpy(ends[1:]))


def _read_counts(fs: pafs.FileSystem, path: str) -> FadingCounts:
    tensors = load_tensors(read_whole(fs, path))
    key, sums, half_lives = (tensors[name].numpy() for name in COUNTS)
    return FadingCounts(key, sums, half_lives, int(tensors["items"]))


def _read_saved(fs: pafs.FileSystem, path: str) -> SavedRanker:
    try:
        return SavedRanker.model_validate_json(read_whole(fs, path))
    except FileNotFoundError as error:
        raise RankerError(f"{path}: there is no ranker here; {RETRAIN}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise RankerError(f"{path}: this version can't read the ranker ({field}: {wording(first)}); {RETRAIN}") from error
