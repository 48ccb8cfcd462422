"""Bundles that are published, and made unfit to be served."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rayrec.config import Config
from rayrec.serving import user_log
from rayrec.serving.bundle import locate
from rayrec.serving.user_log import USERS
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import run_stage
from rayrec.workspace.versions import Workspace


def publish(config: Config) -> str:
    return run_stage(Workspace(config.workspace), load_stage("publish"), config, force=True)[0].version


def spoil(config: Config, version: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Change the weights of a bundle's ranker, checksum and all: only who loads it will know."""
    folder = folder_of(config, version)
    file = folder / "ranker" / "weights.safetensors"
    file.write_bytes(save_tensors(change(load_tensors(file.read_bytes()))))
    _seal(folder, "ranker/weights.safetensors")


def without_numbers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def inverted(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of `wide_deep` whose logits are those of the given ones, negated: the best video is the worst."""
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    for name in ("mlp.rest.5.weight", "mlp.rest.5.bias", "topic_cross.weight"):
        changed[name] *= -1
    for name in [name for name in weights if ".lookups." in name]:
        changed[name][:, -1] *= -1  # the weights of the linear part
    return changed


def lose(config: Config, version: str, users: list[str]) -> None:
    """Have users of a bundle's log click a video that the bundle does not know, so that it has no page for them, but for others."""
    folder = folder_of(config, version)
    known = pa.ipc.open_file((folder / "users.arrow").read_bytes()).read_all()
    lost = pa.table(
        {"user_id": sorted(users), "clicked": [[10**6]] * len(users), "clicked_at": [[0]] * len(users), "seen": [[]] * len(users)}
    ).cast(USERS)
    user_log.write(Workspace(config.workspace).fs, str(folder / "users.arrow"), [known, lost])
    _seal(folder, "users.arrow")


def folder_of(config: Config, version: str) -> Path:
    return Path(locate(Workspace(config.workspace), version)[1])


def _seal(folder: Path, name: str) -> None:
    """Make a file of a bundle that was changed the one that was published."""
    file = folder / "checksums.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()}, indent=1))
