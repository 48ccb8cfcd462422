"""Image features, and every kind of image model with random weights on the real clips and on one of our own."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Features, ImageFeatures
from rayrec.features.image import image_features, image_network
from tests.features.every_model import check

IMAGE = ImageFeatures(model="resnet18", weights="none", output="pooled", frames=2, size=32)
PICTURES = np.random.default_rng(5).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
# (model, output, size, numbers of a vector). resnet152's logits are the choice of the short-video CTR paper.
IMAGES = [
    ("resnet152", "logits", 64, 1000),
    ("resnet50", "pooled", 64, 2048),
    ("vit_b_32", "pooled", 64, 768),
    ("swin_t", "logits", 64, 1000),
    ("convnext_tiny", "pooled", 64, 768),
    ("efficientnet_b0", "pooled", 64, 1280),
    ("mobilenet_v3_small", "logits", 64, 1000),
    ("inception_v3", "pooled", 96, 2048),
]


def test_frames_of_many_videos_and_covers_keep_their_places() -> None:
    network = image_network(IMAGE, seed=7)
    frames, covers = image_features(network, [PICTURES[:2], None, PICTURES[2:4]], [PICTURES[4], PICTURES[5], None])
    assert [vector is None for vector in frames + covers] == [False, True, False, False, False, True]
    with torch.inference_mode():
        alone = network(torch.from_numpy(PICTURES)).numpy()
    assert frames[0] == pytest.approx(alone[:2].mean(axis=0), abs=1e-4)
    assert frames[2] == pytest.approx(alone[2:4].mean(axis=0), abs=1e-4)
    assert covers[1] == pytest.approx(alone[5], abs=1e-4)
    assert frames[0].shape == (512,)
    assert frames[0].dtype == np.float32
    assert image_features(network, [None], [None]) == ([None], [None])


@pytest.mark.parametrize("model", ["inception_v3", "googlenet"])
def test_a_network_with_second_classifiers_can_be_trained_on(model: str) -> None:
    settings = ImageFeatures(model=model, weights="none", output="pooled", size=96)
    network = image_network(settings, 7).train()
    vectors = network(torch.randint(0, 255, (2, 96, 96, 3), dtype=torch.uint8))
    vectors.sum().backward()
    assert vectors.shape[0] == 2
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize(("model", "output", "size", "numbers"), IMAGES)
def test_image_models(clip_rows: pa.Table, model: str, output: str, size: int, numbers: int) -> None:
    image = ImageFeatures(model=model, output=output, size=size, weights="none", frames=2)
    check(clip_rows, Features(image=image, motion=None, audio=None), "image", numbers)
