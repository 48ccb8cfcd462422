"""Small pictures of two classes, and a small network."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from rayrec.config import Compression, ImageFeatures
from rayrec.features.compression.fitting import Task
from rayrec.features.compression.pictures import Pictures
from rayrec.features.networks import FeatureNetwork

IMAGE = ImageFeatures(model="squeezenet1_1", weights="none", output="pooled", size=32)
SETTINGS = Compression(
    file="network.rrz",
    keep=0.5,
    epochs=6,
    sharing_epochs=3,
    batch_size=16,
    learning_rate=2e-3,
    sharing_rate=1e-3,
    targets="uniform",
    held_out=0.25,
)


def pixels_of(count: int, seed: int = 0, size: int = 32) -> np.ndarray:
    """Smooth colours with stripes, uint8 [count, size, size, 3]; those with even numbers are striped across."""
    rng = np.random.default_rng(seed)
    stripes = np.sin(np.arange(size) * rng.uniform(0.3, 1.5, (count, 1)))[:, :, None] * 50
    across = np.arange(count) % 2 == 0
    pattern = np.where(across[:, None, None], np.repeat(stripes, size, axis=2), np.repeat(stripes, size, axis=2).swapaxes(1, 2))
    colours = rng.uniform(60, 190, (count, 1, 1, 3))
    noise = rng.normal(0, 8, (count, size, size, 3))
    return (pattern[..., None] + colours + noise).clip(0, 255).astype(np.uint8)


def little_network() -> FeatureNetwork:
    """Three convolutions with batch norms, and a linear layer: 32 numbers for a picture of 32 pixels."""
    torch.manual_seed(4)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 32)),
    )
    network = FeatureNetwork(body, [0.5] * 3, [0.25] * 3)
    network.size = network.resize = 32
    with torch.no_grad():
        for _ in range(10):
            network(torch.from_numpy(pixels_of(64)))  # measures the statistics of the batch norms
    return network.eval()


def task(settings: Compression = SETTINGS, network: FeatureNetwork | None = None) -> Task:
    """64 pictures to learn from and 32 others; the `little_network` unless another is given."""
    labels, classes = np.arange(64) % 2, ("down", "across")
    train, held_out = Pictures(pixels_of(64), labels, classes), Pictures(pixels_of(32, 1), labels[:32], classes)
    return Task(network or little_network(), train, held_out, settings, 7)


def write_pictures(folder: Path, count: int, classes: bool = True) -> None:
    for number, pixels in enumerate(pixels_of(count)):
        path = folder / (("across", "down")[number % 2] if classes else ".") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
