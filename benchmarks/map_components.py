"""How much of the variance of real covers' feature maps a few channels keep, by how the channels are reduced.

    PYTHONPATH=. python benchmarks/map_components.py --videos FOLDER --workspace workspace/kernels_results

`noise` are the components that `extract` uses, `own` those of the measured pictures themselves (nothing can keep more), `groups`
the means of equal groups of channels, `random` a random projection. The pictures are frames of the clips in a folder, and the
covers of a workspace.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from figures import show
from PIL import Image

from rayrec.config import ImageFeatures, Maps
from rayrec.features.image import image_network
from rayrec.features.maps import StageMaps
from rayrec.features.media.covers import cropped
from rayrec.features.reduction import principal
from rayrec.workspace.versions import Workspace

EVERY = 15  # frames of a clip, of which one is taken


def pictures(options: argparse.Namespace) -> Iterator[tuple[str, list[Image.Image]]]:
    frames = []
    for path in sorted(options.videos.glob("*.mp4")):
        with av.open(str(path)) as clip:
            frames += [frame.to_image() for number, frame in enumerate(clip.decode(video=0)) if number % EVERY == 0]
    yield "clips", frames
    if options.workspace is not None:
        covers = Workspace(str(options.workspace)).read("features", ["cover_jpeg"])["cover_jpeg"].drop_null().to_pylist()
        yield "covers", [Image.open(io.BytesIO(each)).convert("RGB") for each in covers[: options.covers]]


def kept(values: np.ndarray, directions: np.ndarray) -> float:
    """The share of the variance of centred values [N, D] that lies in the span of the directions [C, D]."""
    basis, _ = np.linalg.qr(directions.T)
    return float(((values @ basis) ** 2).sum() / (values**2).sum())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--covers", type=int, default=100)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--channels", type=int, default=4)
    options = parser.parse_args()
    settings = ImageFeatures(model=options.model, weights=options.weights, size=options.size, maps=Maps(channels=options.channels))
    network = image_network(settings, seed=7)
    maps = network.maps
    assert isinstance(maps, StageMaps)
    rows = []
    for name, found in pictures(options):
        pixels = torch.from_numpy(np.stack([cropped(picture, network.size, network.resize) for picture in found]))
        with torch.inference_mode():
            parts = [maps.pooled(network, pixels[start : start + 16])[1] for start in range(0, len(pixels), 16)]
        for number, stage in enumerate(maps.stages):
            values = torch.cat([part[number] for part in parts]).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
            values -= values.mean(0)
            groups = np.zeros((options.channels, stage.channels))
            for group, members in enumerate(np.array_split(np.arange(stage.channels), options.channels)):
                groups[group, members] = 1
            choices = {
                "own": principal(np.cov(values, rowvar=False), options.channels)[1],
                "noise": maps.get_buffer(f"components_{number}").double().numpy(),
                "groups": groups,
                "random": np.random.default_rng(0).normal(size=groups.shape),
            }
            rows.append(
                {"pictures": name, "stage": stage.layer, "channels": stage.channels}
                | {choice: kept(values, directions) for choice, directions in choices.items()}
            )
    show("Components of feature maps", rows, **{key: str(value) for key, value in vars(options).items()})


if __name__ == "__main__":
    main()
