"""A fitted collaborative model as a folder: `model.json` (its name and options) and `arrays.safetensors`. There is no pickle."""

import numpy as np
import pyarrow.fs as pafs
from pydantic import ValidationError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from rayrec.collaborative.model import CollaborativeModel
from rayrec.collaborative.models import build
from rayrec.config import Collaborative
from rayrec.errors import RayrecError
from rayrec.workspace.files import read_whole, write_whole

MODEL, ARRAYS = "model.json", "arrays.safetensors"  # MODEL is written last, so that a folder which has it is complete


class SavedModelError(RayrecError):
    """A saved model can't be loaded; the message names the file and what to run."""


def save(fs: pafs.FileSystem, folder: str, settings: Collaborative, model: CollaborativeModel) -> None:
    fs.create_dir(folder, recursive=True)
    contiguous = {name: np.ascontiguousarray(values) for name, values in model.arrays().items()}  # else safetensors mixes them up
    write_whole(fs, f"{folder}/{ARRAYS}", save_arrays(contiguous))
    write_whole(fs, f"{folder}/{MODEL}", settings.model_dump_json().encode())


def load(fs: pafs.FileSystem, folder: str) -> tuple[Collaborative, CollaborativeModel]:
    """Raises `SavedModelError` for a folder that this version can't read, and `ConfigError` for a model that is not there."""
    again = "run `rayrec collaborative CONFIG --force`"
    try:
        settings = Collaborative.model_validate_json(read_whole(fs, f"{folder}/{MODEL}"))
        model = build(settings)
        model.restore(load_arrays(read_whole(fs, f"{folder}/{ARRAYS}")))
    except FileNotFoundError as error:
        raise SavedModelError(f"{folder}: there is no complete model here; {again}") from error
    except (ValidationError, KeyError) as error:
        raise SavedModelError(f"{folder}: this version can't read the model ({error}); {again}") from error
    return settings, model
