"""The section `search`: one space for words, pictures and sounds, and the index of the catalog's videos in it."""

from typing import Annotated

from pydantic import Field, field_validator

from rayrec.config.base import Count, Section, Share
from rayrec.config.features import EXTRACTED_MODALITIES, Modality

WORDS, PICTURE, SOUND = "text", "picture", "sound"  # the kinds of queries


class Search(Section):
    """The stage `search_index`, and `POST /v1/search`. Both are left out unless the config has this section."""

    # What videos are found by. `text` is the title: as features.text reads it, or, without that network, its hashed words.
    modalities: list[Modality] = ["text", "cover", "motion", "audio"]
    size: Count = 128  # numbers in a vector of the space
    hidden: Annotated[int, Field(ge=0)] = 256  # units between a modality's features and the space; 0: the projection is linear
    temperature: Annotated[float, Field(gt=0)] = 0.2  # of the contrastive losses
    alike: Annotated[float, Field(ge=0)] = 3.0  # the weight of the loss by which videos of a class, or with common tags, attract
    learn_videos: Count = 100_000  # the space is learned from so many videos at most, drawn from the whole catalog
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of them on which early stopping and the floor are decided
    epochs: Count = 60
    patience: Count = 8
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    workers: Annotated[int, Field(ge=0)] = 0  # processes that train together; 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a training continues from its checkpoint after a worker has died
    max_tags: Count = 12_000  # only so many of the most frequent tags expand a query
    expansion_tags: Annotated[int, Field(ge=0)] = 3  # a query moves towards the videos of so many tags; 0: it does not
    expansion: Annotated[float, Field(ge=0)] = 0.25  # how far
    # A video is found only if it scores higher than this share of the videos that have nothing to do with a query.
    floor: Share = 0.95
    replicas: Count = 1  # of the deployment that answers searches
    exact_videos: Count = 1_000_000  # catalogs of more videos are searched approximately, if `usearch` is installed
    max_upload_bytes: Annotated[int, Field(ge=1, le=16 * 2**20)] = 8 * 2**20  # of a picture or a sound
    decode_timeout_s: Annotated[float, Field(gt=0)] = 3.0  # for an uploaded picture or sound

    @field_validator("modalities")
    @classmethod
    def _known(cls, names: list[Modality]) -> list[Modality]:
        unknown = [name for name in names if name not in EXTRACTED_MODALITIES]
        if unknown or not names or len(set(names)) < len(names):
            raise ValueError(
                f"give one or several of {', '.join(EXTRACTED_MODALITIES)}, each once, not {', '.join(names) or 'none'}"
            )
        return names
