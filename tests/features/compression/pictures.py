"""Small pictures of two classes, and a small network."""

from pathlib import Path

import numpy as np
from PIL import Image

from rayrec.config import Compression, ImageFeatures
from rayrec.features.compression.fitting import Task
from rayrec.features.compression.pictures import Pictures
from rayrec.features.image import image_network

IMAGE = ImageFeatures(model="mnasnet0_5", weights="none", output="pooled", size=32)
SETTINGS = Compression(
    file="network.rrz", epochs=2, sharing_epochs=1, batch_size=16, learning_rate=1e-3, targets="uniform", held_out=0.25
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


def task(settings: Compression = SETTINGS, image: ImageFeatures = IMAGE) -> Task:
    """64 pictures to learn from and 32 others."""
    labels = np.arange(64) % 2
    train, held_out = (
        Pictures(pixels_of(64), labels, ("down", "across")),
        Pictures(pixels_of(32, 1), labels[:32], ("down", "across")),
    )
    return Task(image_network(image, 7), train, held_out, settings, 7)


def write_pictures(folder: Path, count: int, classes: bool = True) -> None:
    for number, pixels in enumerate(pixels_of(count)):
        path = folder / (("across", "down")[number % 2] if classes else ".") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
