"""Feature maps: which stages networks have, that the numbers are the network's own, and that they depend on nothing else."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.models.feature_extraction import create_feature_extractor

from rayrec.config import Compression, ConfigError, Features, ImageFeatures, Maps, load
from rayrec.features.image import cover_features, image_features, image_network
from rayrec.features.maps import StageMaps, stages_of
from rayrec.features.networks import FeatureNetwork, noise_pictures
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from rayrec.stages.extract import check
from rayrec.tables import MapShape

IMAGE = ImageFeatures(model="resnet18", weights="none", output="pooled", frames=2, size=64, maps=Maps(channels=3, grid=4))
PICTURES = np.random.default_rng(5).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return image_network(IMAGE, seed=7)


def maps_of(network: FeatureNetwork) -> StageMaps:
    assert isinstance(network.maps, StageMaps)
    return network.maps


# (model, size, (side of the maps, channels, width of the kernels) of each stage)
NETWORKS = [
    ("resnet18", 64, [(32, 64, 7), (16, 64, 3), (8, 128, 3), (4, 256, 3), (2, 512, 3)]),
    ("resnet50", 64, [(32, 64, 7), (16, 256, 3), (8, 512, 3), (4, 1024, 3), (2, 2048, 3)]),
    ("efficientnet_lite0", 64, [(32, 16, 3), (16, 24, 3), (8, 40, 5), (4, 112, 5), (2, 1280, 3)]),
    ("mobilenet_v3_small", 64, [(32, 16, 3), (16, 16, 3), (8, 24, 3), (4, 48, 5), (2, 576, 5)]),
    ("vgg11", 64, [(64, 64, 3), (32, 128, 3), (16, 256, 3), (8, 512, 3), (4, 512, 3)]),
]


@pytest.mark.parametrize(("model", "size", "expected"), NETWORKS)
def test_the_stages_of_known_networks(model: str, size: int, expected: list[tuple[int, int, int]]) -> None:
    network = image_network(ImageFeatures(model=model, weights="none", size=size), 7)
    found = stages_of(network, torch.from_numpy(PICTURES[:1]))
    assert [(stage.side, stage.channels, stage.kernel) for stage in found] == expected


@pytest.mark.parametrize(
    "model", ["densenet121", "googlenet", "squeezenet1_1", "regnet_y_400mf", "convnext_tiny", "efficientnet_b0"]
)
def test_any_convolutional_network_does(clip_rows: pa.Table, model: str) -> None:
    features = Features(
        image=ImageFeatures(model=model, weights="none", size=96, frames=1, maps=Maps(grid=3)), motion=None, audio=None
    )
    networks = load_networks(features, seed=7)
    settings = resolved(features, networks)
    found = network_rows(decode_rows(clip_rows, settings), settings, networks)
    shape = MapShape.from_json(found["maps_shape"][0].as_py())
    assert len(shape.kernels) >= 3
    assert set(found["maps_shape"].to_pylist()) == {shape.to_json()}
    assert np.stack(found["maps"].to_pylist()).shape == (clip_rows.num_rows, shape.size)
    assert len(found["cover"][0]) > 0


def test_maps_are_the_channels_of_each_stage_projected_and_averaged_over_squares(network: FeatureNetwork) -> None:
    maps = maps_of(network)
    layers = [stage.layer for stage in maps.stages]
    assert layers == ["relu", "layer1", "layer2", "layer3", "layer4"]
    extractor = create_feature_extractor(network.body, layers)
    pixels = torch.from_numpy(PICTURES)
    with torch.inference_mode():
        outputs = extractor(network.normalised(pixels))
        vectors, flat = maps(network, pixels)
        alone = network(pixels)
    torch.testing.assert_close(vectors, alone)
    expected = []
    for number, layer in enumerate(layers):
        pooled = adaptive_avg_pool2d(outputs[layer], 4).numpy()
        expected.append(np.einsum("kc,ncgh->nkgh", maps.get_buffer(f"components_{number}").numpy(), pooled))
    np.testing.assert_allclose(flat.view(6, 5, 3, 4, 4).numpy(), np.stack(expected, 1), atol=1e-4)
    assert maps.shape == MapShape(3, 4, (4, 3, 3, 3, 3), 64 / network.resize)  # the kernel of 7 is no wider than the map


def test_the_components_are_those_of_noise_by_scikit_learn(network: FeatureNetwork) -> None:
    from sklearn.decomposition import PCA

    maps = maps_of(network)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(7)
        noise = noise_pictures((64, 64, 3))
        pooled = maps.pooled(network, noise)[1][2]
    values = pooled.permute(0, 2, 3, 1).flatten(0, 2).numpy()
    expected = PCA(3, svd_solver="full").fit(values.astype(np.float64)).components_
    found = maps.get_buffer("components_2").numpy()
    assert len(noise) == 32
    np.testing.assert_allclose(np.abs((found * expected).sum(1)), 1, atol=1e-3)


def test_maps_depend_on_network_and_seed_alone(network: FeatureNetwork) -> None:
    torch.manual_seed(99)
    again, other = image_network(IMAGE, seed=7), image_network(IMAGE, seed=8)
    one, two, three = (cover_features(each, [*PICTURES])[1] for each in (network, again, other))
    np.testing.assert_array_equal(np.stack(one), np.stack(two))  # type: ignore[arg-type]
    assert not np.allclose(np.stack(one), np.stack(three))  # type: ignore[arg-type]


def test_covers_keep_their_places_and_vectors(network: FeatureNetwork) -> None:
    vectors, maps = cover_features(network, [PICTURES[0], None, PICTURES[1]])
    assert [each is None for each in maps] == [each is None for each in vectors] == [False, True, False]
    _, without = image_features(network, [], [PICTURES[0], None, PICTURES[1]])
    np.testing.assert_allclose(vectors[2], without[2], atol=1e-4)  # type: ignore[arg-type]
    _, alone = cover_features(network, [PICTURES[1]])
    np.testing.assert_allclose(maps[2], alone[0], atol=1e-4)  # type: ignore[arg-type]
    assert cover_features(network, [None]) == ([None], [None])


def test_a_bright_corner_is_in_the_same_corner_of_the_maps(network: FeatureNetwork) -> None:
    dark = np.full((64, 64, 3), 60, np.uint8)
    lit = dark.copy()
    lit[:16, 48:] = 250
    _, maps = cover_features(network, [dark, lit])
    change = np.abs(maps[1] - maps[0]).reshape(5, 3, 4, 4).sum(1)  # type: ignore[operator]
    for stage in range(3):
        assert np.unravel_index(change[stage].argmax(), (4, 4)) == (0, 3)


def test_settings_that_can_not_be_used() -> None:
    with pytest.raises(ConfigError, match="the smallest stage of the network has 64 channels; set it to that or less"):
        image_network(IMAGE.model_copy(update={"maps": Maps(channels=65, grid=2)}), 7)
    kernels = ["ranker.user_kernels=true"]
    with pytest.raises(ConfigError, match=r"^config: the ranker has user kernels, .* set features.image.maps={}, or choose"):
        load(None, kernels)
    assert load(None, [*kernels, "features.image.maps={}"]).features.image is not None
    with pytest.raises(ConfigError, match=r"make 588 numbers a stage, .* at most 512 are possible"):
        load(None, ["features.image.maps={channels: 12}"])
    with pytest.raises(ConfigError, match="maps keep their places, so PCA can't reduce them"):
        load(None, ["reduction.sizes={maps: 3}"])
    packed = ImageFeatures(model="resnet18", compression=Compression(file="x.rrz"), maps=Maps())
    with pytest.raises(ConfigError, match="set maps to null or int8 to false"):
        check(load(None).model_copy(update={"features": Features(image=packed, motion=None, audio=None)}))
