"""The sections `split` and `ranker`: the data of a ranker, and its network."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rayrec.config.base import Count, Section, Share
from rayrec.config.features import Modality


class Split(Section):
    """Shares of the log, by time: the oldest impressions are for training, the next for validation, the newest for the test."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Ranker(Section):
    """Which network ranks the candidates, and what it is built from."""

    model: str = "wide_deep"
    options: dict[str, Any] = {}  # of this model; `Options` in its file says which there are
    embedding_size: Count = 16
    topic_size: Count = 8  # of topic embeddings (Pu et al.); models whose fields must have one size use embedding_size
    hidden: list[Count] = [128, 64]
    dropout: Share = 0.1
    history_length: Count = 50
    # Where the clicked videos enter the network: below the MLP, at its last layer, at both, or not at all.
    history_connection: Literal["input", "top", "both", "none"] = "input"
    id_dropout: Share = 0.1  # share of video ids hidden in training, so that the ranker learns to score new videos by their content
    item_fields: list[str] = ["author_id", "primary_class", "secondary_class"]  # columns of the catalog; `tags` is possible too
    context_fields: list[str] = []  # extra columns of the log; `hour` and `weekday` (UTC) are made from the time
    topics: bool = True
    modalities: list[Modality] = []  # reduced vectors that the ranker reads directly
    fusion: Literal["concat", "attention", "user_attention"] = "concat"  # of the modalities (Hasama & Li)

    @property
    def history_at_input(self) -> bool:
        return self.history_connection in ("input", "both")

    @property
    def history_at_top(self) -> bool:
        return self.history_connection in ("top", "both")
