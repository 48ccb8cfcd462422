"""Bundles that are published, and made unfit to be served."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rayrec.config import Config
from rayrec.serving.bundle import locate
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace


def publish(config: Config) -> str:
    return run_stage(Workspace(config.workspace), load_stage("publish"), config, force=True)[0].version


def spoil(config: Config, version: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Change the weights of a bundle's ranker, checksum and all: only who loads it will know."""
    _, folder = locate(Workspace(config.workspace), version)
    file, checksums = Path(folder) / "ranker" / "weights.safetensors", Path(folder) / "checksums.json"
    file.write_bytes(save_tensors(change(load_tensors(file.read_bytes()))))
    known = json.loads(checksums.read_text())
    checksums.write_text(json.dumps(known | {"ranker/weights.safetensors": hashlib.sha256(file.read_bytes()).hexdigest()}))


def without_numbers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
