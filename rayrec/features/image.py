"""Image features: one vector for the sampled frames of a video (their mean) and one for its cover."""

import torchvision
from torch import nn

from rayrec.config import ImageFeatures
from rayrec.features import efficientnet_lite
from rayrec.features.compression.loading import decompressed
from rayrec.features.maps import StageMaps, WithMaps
from rayrec.features.networks import Arrays, Family, FeatureNetwork, OwnModel, Transform, means, sized_network

# The second classifiers of googlenet and inception_v3. They are never used, and in training they would turn outputs into tuples.
AUXILIARY = ("aux1", "aux2", "AuxLogits")


def image_network(settings: ImageFeatures, seed: int) -> FeatureNetwork:
    """The network that the settings describe. Raises `ConfigError` for a model or weights that can't be loaded or don't fit."""
    network = _image_network(settings, seed)
    if settings.maps is not None:
        network.maps = StageMaps(network, settings.maps, seed)
    return network


def _image_network(settings: ImageFeatures, seed: int) -> FeatureNetwork:
    if settings.compression is None:
        return sized_network(IMAGE_MODELS, "features.image", settings, seed)
    empty = settings.model_copy(update={"weights": "none", "compression": None})
    return decompressed(sized_network(IMAGE_MODELS, "features.image", empty, seed), settings, settings.compression)


def image_features(network: FeatureNetwork, images: Arrays, covers: Arrays) -> tuple[Arrays, Arrays]:
    """float32 [D] for each video's frames (uint8 [F, H, W, 3], their mean) and for each cover ([H, W, 3]); None stays None."""
    vectors = means(network, [*images, *(None if cover is None else cover[None] for cover in covers)])
    return vectors[: len(images)], vectors[len(images) :]


def cover_features(network: FeatureNetwork, covers: Arrays) -> tuple[Arrays, Arrays]:
    """The vector float32 [D] and the flat feature maps (`maps.shape`) of each cover; None stays None. The network keeps maps."""
    assert isinstance(network.maps, StageMaps)
    size = network.maps.shape.size
    both = means(WithMaps(network, network.maps), [None if cover is None else cover[None] for cover in covers])
    return [each if each is None else each[:-size] for each in both], [each if each is None else each[-size:] for each in both]


def _constructor_options(model: str, size: int) -> dict[str, object]:
    if model in ("googlenet", "inception_v3"):
        return {"init_weights": False}  # otherwise they are drawn through SciPy, which is slow
    # Vision transformers are built for one size of input.
    if model.startswith("vit_"):
        return {"image_size": size}
    if model.startswith("maxvit"):
        return {"input_size": (size, size)}
    return {}


def _remove_auxiliary_classifiers(body: nn.Module) -> None:
    for auxiliary in AUXILIARY:
        if getattr(body, auxiliary, None) is not None:
            setattr(body, auxiliary, None)
            setattr(body, "aux_logits", False)  # noqa: B010 - torch types an attribute of a module as a tensor


IMAGE_MODELS = Family(
    torchvision.models,
    own={
        "efficientnet_lite0": OwnModel(
            efficientnet_lite.EfficientNetLite0,
            Transform(efficientnet_lite.SIZE, efficientnet_lite.RESIZE, efficientnet_lite.MEAN, efficientnet_lite.STD),
            efficientnet_lite.WEIGHTS,
        )
    },
    options=_constructor_options,
    prepare=_remove_auxiliary_classifiers,
    hint="pictures",
)
