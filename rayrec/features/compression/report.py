"""What a compressed network costs and what it keeps, in all and layer by layer."""

import copy
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, normalize

from rayrec.features.compression.fitting import distortion, outputs
from rayrec.features.compression.int8 import quantised
from rayrec.features.compression.layers import layers_of, multiply_adds
from rayrec.features.compression.loading import FLOAT_BYTES, unpacked
from rayrec.features.compression.pictures import Pictures
from rayrec.features.networks import FeatureNetwork

MAX_DISTORTION = 0.1  # of the outputs: more is a loss worth a warning
MAX_LOST = 0.02  # of the accuracy
ADVICE = "lower features.image.compression.bit_cost (or keep more weights), or give more pictures or epochs"


def report(original: FeatureNetwork, data: bytes, held_out: Pictures) -> dict[str, Any]:
    """Bytes and quality of a file as JSON values. The held-out pictures also chose the epochs: it is a little too good.

    `distortion` is in units of the variance of the original's outputs, `cosine` the mean cosine of both outputs. Where the pictures
    have classes, `accuracy` is the share of those whose nearest other picture, by the cosine of outputs, is of their class.
    """
    network = copy.deepcopy(original)
    found = unpacked(network, data)
    forms = {"float32": network}
    if found.facts["activations"] is not None:
        forms["int8"] = quantised(network, found.facts["activations"])
    expected = outputs(original, held_out)
    quality = {}
    for name, form in forms.items():
        given = outputs(form, held_out)
        quality[name] = {
            "distortion": distortion(given, expected),
            "cosine": float(cosine_similarity(given, expected).mean()),
            "accuracy": accuracy(given, held_out.labels),
        }
    return {
        "bytes": len(data),
        "original_bytes": found.facts["original_bytes"],
        "ratio": found.facts["original_bytes"] / len(data),
        "quality": quality,
        "original_accuracy": accuracy(expected, held_out.labels),
        "pictures": len(held_out),
        "layers": layer_rows(network, found.tensors, found.sizes),
    }


def accuracy(outputs_NE: torch.Tensor, labels_N: np.ndarray | None) -> float | None:
    """The share of pictures whose nearest neighbour is of their class; None without classes."""
    if labels_N is None or len(labels_N) < 2:
        return None
    directions_NE = normalize(outputs_NE)
    nearest_N = (directions_NE @ directions_NE.T).fill_diagonal_(-torch.inf).argmax(1).cpu().numpy()
    return float((labels_N[nearest_N] == labels_N).mean())


def losses_in_words(report: dict[str, Any]) -> list[str]:
    """A sentence for each form of the network that has lost much."""
    found = []
    for form, quality in report["quality"].items():
        if quality["distortion"] > MAX_DISTORTION:
            found.append(
                f"{form}: the outputs differ from the original's by {quality['distortion']:.0%} of their variance, so that other "
                f"pictures are neighbours now; {ADVICE}"
            )
        elif quality["accuracy"] is not None and quality["accuracy"] < report["original_accuracy"] - MAX_LOST:
            found.append(
                f"{form}: {quality['accuracy']:.1%} of the held-out pictures have a nearest neighbour of their class, "
                f"{report['original_accuracy']:.1%} with the original; {ADVICE}"
            )
    return found


def layer_rows(network: FeatureNetwork, tensors: dict[str, np.ndarray], sizes: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each layer: its weights, the share that is not zero, the values, the bytes, and multiply-adds for one picture.

    `multiply_adds_left` are those with weights that are not zero. Kernels for dense weights do not leave out the others.
    """
    blank = torch.zeros(1, network.size, network.size, 3, dtype=torch.uint8, device=network.device)
    work = multiply_adds(network.body, lambda: network(blank))
    rows = []
    for name in layers_of(network.body):
        weights = tensors[f"{name}.weight"]
        kept = np.count_nonzero(weights) / weights.size
        rows.append(
            {
                "layer": name,
                "weights": weights.size,
                "kept": kept,
                "values": len(np.unique(weights[weights != 0])),
                "original_bytes": FLOAT_BYTES * weights.size,
                "bytes": sizes[f"{name}.weight"],
                "multiply_adds": work.get(name, 0),
                "multiply_adds_left": round(kept * work.get(name, 0)),
            }
        )
    return rows
