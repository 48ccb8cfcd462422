"""`rayrec convert`: a trained network's file in the form that rayrec reads."""

from pathlib import Path
from typing import Annotated

import typer

from rayrec.cli.common import say
from rayrec.errors import RayrecError

app = typer.Typer()


@app.command(rich_help_panel="Start")
def convert(
    source: Annotated[Path, typer.Argument(help="YAMNet's file of TensorFlow Lite (.tflite), int8 or float32.")],
    target: Annotated[Path, typer.Argument(help="The file to write (.safetensors), for `features.audio.weights`.")],
) -> None:
    """Convert a trained YAMNet, which recognises sounds. Nothing in its file is executed."""
    import safetensors.numpy

    from rayrec.features.yamnet.conversion import converted
    from rayrec.features.yamnet.tflite import TfliteError

    try:
        arrays = converted(source.read_bytes())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(safetensors.numpy.save(arrays))
    except TfliteError as error:
        raise RayrecError(f"{source} can't be converted: {error}") from error
    except OSError as error:
        raise RayrecError(f"{error.filename}: {error.strerror}") from error
    kind = "int8" if arrays["layers.0.weight"].dtype == "int8" else "float32"
    say(f"{target}: {len(arrays)} arrays of a network in {kind}. Use it with features.audio: {{model: yamnet, weights: {target}}}")
