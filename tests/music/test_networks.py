"""Each network does what its formula says, written as loops, and hides what it is told to hide."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rayrec.config import SoundNetwork, UserNetwork, WordNetwork
from rayrec.features.yamnet.spectrogram import BANDS, PATCH
from rayrec.music.networks import SoundCNN, UserAutoencoder, WordCNN, band_scales

SIZE = 3


def numbers(values: Tensor) -> np.ndarray:
    return values.detach().numpy().astype(np.float64)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(5)


def autoencoder(**options: object) -> tuple[UserAutoencoder, np.ndarray]:
    facts_UF = (np.random.default_rng(1).random((4, 6)) < 0.5).astype(np.float32)
    return UserAutoencoder(facts_UF, SIZE, UserNetwork.model_validate({"hidden": [5, 4]} | options)), facts_UF


def dense(layer: torch.nn.Module, values: np.ndarray) -> np.ndarray:
    """A linear layer, one sum at a time."""
    weight = numbers(layer.weight)  # type: ignore[arg-type]
    bias = numbers(layer.bias) if layer.bias is not None else np.zeros(len(weight))  # type: ignore[arg-type]
    return np.array([sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)])


def test_the_side_information_enters_the_autoencoder_below_and_at_the_bottleneck() -> None:
    network, facts_UF = autoencoder()
    found = numbers(network(torch.tensor([2, 1])))
    for place, user in enumerate((2, 1)):
        layer = facts_UF[user].astype(np.float64)
        for each in network.encoder:
            layer = np.tanh(dense(each[0], layer))  # type: ignore[index]
        expected = dense(network.bottleneck, layer) + dense(network.side, facts_UF[user])
        np.testing.assert_allclose(found[place], expected, rtol=1e-5)


def test_reconstruction_is_the_likelihood_of_all_facts_given_the_bottleneck() -> None:
    network, facts_UF = autoencoder()
    vector = torch.randn(1, SIZE)
    layer = numbers(vector)[0]
    for each in network.decoder:
        layer = np.tanh(dense(each[0], layer))  # type: ignore[index]
    expected = 0.0
    for logit, fact in zip(dense(network.restored, layer), facts_UF[3], strict=True):
        probability = 1 / (1 + math.exp(-logit))
        expected -= math.log(probability if fact else 1 - probability)
    found = numbers(network.reconstruction(torch.tensor([3]), vector))
    assert found[0] == pytest.approx(expected, rel=1e-5)


def test_hidden_facts_are_left_out_and_the_others_scaled_up() -> None:
    network, _ = autoencoder(noise=0.5)
    drawn = torch.tensor([[0.4, 0.6, 0.5, 0.1, 0.9, 0.7]])  # below .5: hidden
    hidden, _ = autoencoder(noise=0.5)
    hidden.load_state_dict(network.state_dict())
    hidden.facts_UF[1] *= torch.tensor([0, 2, 2, 0, 2, 2])
    torch.testing.assert_close(network(torch.tensor([1]), drawn), hidden(torch.tensor([1])))


def test_an_autoencoder_may_have_no_layer_between() -> None:
    network, _ = autoencoder(hidden=[])
    assert network(torch.tensor([1])).shape == (1, SIZE)
    assert network.reconstruction(torch.tensor([1]), torch.zeros(1, SIZE)).shape == (1,)


def test_words_are_convolved_and_each_filter_gives_its_largest_value() -> None:
    words_TL = np.array([[0, 0, 0], [2, 1, 3], [3, 0, 0], [0, 0, 0]])
    network = WordCNN(words_TL, SIZE, WordNetwork(embedding=4, windows=[1, 2], filters=2))
    embedding = numbers(network.embedding.weight)
    assert not embedding[0].any()
    found = numbers(network(torch.tensor([1, 2, 3])))
    for place, words in enumerate(([2, 1, 3], [3], [])):
        features = []
        for window, convolution in zip((1, 2), network.filters, strict=True):
            weight, bias = numbers(convolution.weight), numbers(convolution.bias)  # type: ignore[arg-type]
            for number in range(2):
                best = 0.0  # what a filter gives is cut at 0
                for start in range(len(words)):
                    seen = [embedding[word] for word in words[start : start + window]]
                    value = bias[number] + sum(weight[number, :, at] @ vector for at, vector in enumerate(seen))
                    best = max(best, value)
                features.append(best)
        np.testing.assert_allclose(found[place], dense(network.output, np.array(features)), rtol=1e-5, atol=1e-6)


@pytest.fixture
def sounds() -> tuple[SoundCNN, np.ndarray]:
    """Three tracks with two, one and no patches."""
    patches_TP = np.random.default_rng(2).normal(-2, 1, (4, 2, PATCH, BANDS)).astype(np.float16)
    patches_TP[2, 1], patches_TP[0], patches_TP[3] = 0, 0, 0
    return SoundCNN(patches_TP, np.array([0, 2, 1, 0]), SIZE, SoundNetwork(patches=2, channels=[4], dropout=0.5)), patches_TP


def heard(network: SoundCNN, patch: np.ndarray) -> np.ndarray:
    """The mean over time of each channel and band of a network with one layer, one filter position at a time."""
    convolution, norm = network.layers[0], network.layers[1]
    weight, bias = numbers(convolution.weight), numbers(convolution.bias)  # type: ignore[arg-type]
    padded = np.pad((patch.astype(np.float64) - numbers(network.mean_B)) / numbers(network.scale_B), 1)
    image = np.empty((4, PATCH // 2, BANDS // 2))
    for time in range(PATCH // 2):
        for band in range(BANDS // 2):
            seen = padded[2 * time : 2 * time + 3, 2 * band : 2 * band + 3]
            image[:, time, band] = [(weight[channel, 0] * seen).sum() + bias[channel] for channel in range(4)]
    image = (image - image.mean()) / np.sqrt(image.var() + norm.eps)  # type: ignore[operator]
    image = image * numbers(norm.weight)[:, None, None] + numbers(norm.bias)[:, None, None]  # type: ignore[arg-type]
    return np.maximum(image, 0).mean(axis=1).ravel()


def test_a_sound_is_the_mean_over_its_patches(sounds: tuple[SoundCNN, np.ndarray]) -> None:
    network, patches_TP = sounds
    network.layers[1].num_groups = 1
    found = numbers(network(torch.tensor([1, 2, 3])))
    first, second, third = heard(network, patches_TP[1, 0]), heard(network, patches_TP[1, 1]), heard(network, patches_TP[2, 0])
    for row, features in zip(found, ((first + second) / 2, third, np.zeros_like(first)), strict=True):
        np.testing.assert_allclose(row, dense(network.output, features), rtol=1e-3, atol=1e-4)


def test_training_hears_the_patch_that_was_drawn(sounds: tuple[SoundCNN, np.ndarray]) -> None:
    network, patches_TP = sounds
    network.layers[1].num_groups = 1
    drawn = torch.full((3, network.draws), 0.9)  # nothing is hidden, and of two patches the second is heard
    found = numbers(network(torch.tensor([1, 2, 3]), drawn))
    for row, patch in zip(found[:2], (patches_TP[1, 1], patches_TP[2, 0]), strict=True):
        np.testing.assert_allclose(row, dense(network.output, 2 * heard(network, patch)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[2], numbers(network.output.bias), rtol=1e-5)


def test_bands_are_scaled_by_what_is_there(sounds: tuple[SoundCNN, np.ndarray]) -> None:
    _, patches_TP = sounds
    there = np.concatenate([patches_TP[1, 0], patches_TP[1, 1], patches_TP[2, 0]]).astype(np.float64)
    mean_B, scale_B = band_scales(patches_TP, np.array([0, 2, 1, 0]))
    np.testing.assert_allclose(mean_B, there.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale_B, there.std(axis=0), rtol=1e-5)
