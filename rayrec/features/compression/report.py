"""What a compressed network costs and what it keeps, in all and layer by layer."""

import copy
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from rayrec.features.compression.fitting import distortion, outputs
from rayrec.features.compression.int8 import quantised
from rayrec.features.compression.layers import layers_of, multiply_adds
from rayrec.features.compression.loading import FLOAT_BYTES, unpacked
from rayrec.features.compression.pictures import Pictures
from rayrec.features.networks import FeatureNetwork


def report(original: FeatureNetwork, data: bytes, held_out: Pictures) -> dict[str, Any]:
    """Bytes and quality of a file as JSON values. The held-out pictures also chose the epochs: it is a little too good.

    `distortion` is in units of the variance of the original's outputs, `cosine` the mean cosine of both outputs.
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
        }
    return {
        "bytes": len(data),
        "original_bytes": found.facts["original_bytes"],
        "ratio": found.facts["original_bytes"] / len(data),
        "quality": quality,
        "pictures": len(held_out),
        "layers": layer_rows(network, found.tensors, found.sizes),
    }


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
