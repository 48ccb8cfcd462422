"""`rayrec convert`: a trained network's file in the form that rayrec reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayrec.cli.common import say
from rayrec.errors import RayrecError

if TYPE_CHECKING:
    import numpy as np

app = typer.Typer()
HDF5 = b"\x89HDF\r\n\x1a\n"  # with which every such file begins


@app.command(rich_help_panel="Start")
def convert(
    source: Annotated[Path, typer.Argument(help="YAMNet's file of TensorFlow Lite (.tflite), int8 or float32, or of Keras (.h5).")],
    target: Annotated[Path, typer.Argument(help="The file to write (.safetensors), for `features.audio.weights`.")],
) -> None:
    """Convert a trained YAMNet, which recognises sounds. Nothing in its file is executed."""
    import safetensors.numpy

    try:
        arrays = _arrays(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(safetensors.numpy.save(arrays))
    except ValueError as error:
        raise RayrecError(f"{source} can't be converted: {error}") from error
    except OSError as error:
        raise RayrecError(f"{error.filename}: {error.strerror}") from error
    kind = "int8" if arrays["layers.0.weight"].dtype == "int8" else "float32"
    say(f"{target}: {len(arrays)} arrays of a network in {kind}. Use it with features.audio: {{model: yamnet, weights: {target}}}")


def _arrays(source: Path) -> "dict[str, np.ndarray]":
    """What the file holds, by its first bytes. Raises `ValueError` for a file that can't be converted, and `OSError`."""
    from rayrec.config import need_package

    data = source.read_bytes()
    if not data.startswith(HDF5):
        from rayrec.features.yamnet.conversion import converted

        return converted(data)
    need_package("h5py", "keras", f"converting {source}, a file of Keras (HDF5),")
    from rayrec.features.yamnet import keras

    return keras.converted(data)
