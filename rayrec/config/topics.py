"""The section `topics`."""

from typing import Annotated, Literal

from pydantic import Field

from rayrec.config.base import Count, Section, Share
from rayrec.config.features import Modality


class CoverNetwork(Section):
    """A torchvision image classifier that reads the cover's pixels and is trained on with the topics' tasks."""

    model: str = "resnet18"
    weights: str = "DEFAULT"
    size: Annotated[int, Field(ge=32)] = 224  # side of the square that is cut from the cover, pixels


class Topics(Section):
    """SOURCES C.1-C.3. The paper's scale is in configs/kuaibao.yaml."""

    modalities: list[Modality] = ["cover", "motion", "audio"]  # the reduced vectors that f_C reads (the source's: the cover)
    cover_network: CoverNetwork | None = None  # reads the cover's pixels in their place
    title_encoder: str = "bag"  # or `transformer` (small, trained from nothing), or a Hugging Face name or folder

    clusters: Count = 64
    clustering: Literal["local", "ray"] = "local"  # ray: K-means as Ray jobs, for more vectors than one machine's memory holds
    threshold: Share = 0.6  # tau3: a video gets every topic whose centre is at least this similar (cosine)
    max_topics: Count = 8
    experts: Count = 12
    expert_size: Count = 64
    encoder_size: Count = 64  # of each of the cover's and the title's encodings
    epochs: Count = 30
    batch_size: Count = 300
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    fine_tuning_rate: Annotated[float, Field(gt=0)] = 3e-5  # of the layers that come with trained weights
    workers: Annotated[int, Field(ge=0)] = 0  # processes that train z together (DDP); 0 trains in the calling one
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    min_tag_videos: Count = 1  # rarer tags are neither predicted nor walked to
    max_tags: Count = 12_000  # the most frequent ones; the others are left out
    tag_size: Count = 64
    walk_length: Annotated[int, Field(ge=2)] = 100
    walks_per_tag: Count = 10
    window: Count = 5
    skip_gram_epochs: Count = 5
