"""The section `topics`."""

from typing import Annotated, Literal

from pydantic import Field

from rayrec.config.base import Count, Section, Share
from rayrec.config.features import Modality


class CoverNetwork(Section):
    """A torchvision image classifier that reads the pixels of the cover, and is fine-tuned on the tasks of the topics."""

    model: str = "resnet18"
    weights: str = "DEFAULT"
    size: Annotated[int, Field(ge=32)] = 224  # side of the square that is cropped from the cover, in pixels


class Topics(Section):
    """Topics after Pu et al., "Multimodal Topic Learning for Video Recommendation"; configs/kuaibao.yaml has the paper's scale."""

    modalities: list[Modality] = ["cover", "motion", "audio"]  # the reduced vectors that f_C reads (in the paper: the cover)
    cover_network: CoverNetwork | None = None  # if set, f_C reads the pixels of the cover instead
    title_encoder: str = "bag"  # or `transformer` (small, trained from scratch), or the name or folder of a Hugging Face model

    # The length of z (cover, title) where a video also has tags, whose vector e has length 1.
    z_weight: Annotated[float, Field(gt=0)] = 0.4

    clusters: Count = 64
    # `ray`: all videos are encoded, clustered and assigned on the workers, block by block, so that no process holds all of them.
    clustering: Literal["local", "ray"] = "local"
    threshold: Share = 0.6  # tau3: a video gets every topic whose centre has at least this cosine similarity
    max_topics: Count = 8
    twins: Share = 0.9  # topics whose centres have at least this cosine similarity become one
    experts: Count = 12
    expert_size: Count = 64
    encoder_size: Count = 64  # numbers in each of the encodings of cover and title
    epochs: Count = 30
    batch_size: Count = 300
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    fine_tuning_rate: Annotated[float, Field(gt=0)] = 3e-5  # of pretrained layers
    workers: Annotated[int, Field(ge=0)] = 0  # processes that train together; 0 trains in the calling process
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    restarts: Annotated[int, Field(ge=0)] = 3  # how often a training continues from its checkpoint after a worker has died
    min_tag_videos: Count = 1  # tags of fewer videos are left out
    max_tags: Count = 12_000  # only this number of the most frequent tags is used
    tag_size: Count = 64
    walk_length: Annotated[int, Field(ge=2)] = 100
    walks_per_tag: Count = 10
    window: Count = 5
    skip_gram_epochs: Count = 5
