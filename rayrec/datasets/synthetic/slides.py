"""Clips made of a few pictures, over which the view moves slowly, and a sound: everything comes from the user's own files."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rayrec.datasets.synthetic.sounds import SAMPLE_RATE
from rayrec.workspace.files import open_filesystem, read_whole

ROOM = 1.3  # the short side of a picture, in sides of the view, so that the view can move
MAX_ASPECT = 2  # of a picture's long side to its short one; more is cut off


@dataclass(frozen=True)
class Slides:
    """A clip that shows pictures one after the other, each for an equal share of its frames."""

    name: str
    picture_uris: tuple[str, ...]
    sound_uri: str
    frames: int
    fps: int
    side: int
    seed: tuple[int, ...]

    def pictures(self) -> Iterator[np.ndarray]:
        """uint8 [side, side, 3] in RGB, `frames` times."""
        rng = np.random.default_rng(self.seed)
        for uri, frames in zip(self.picture_uris, np.array_split(np.arange(self.frames), len(self.picture_uris)), strict=True):
            picture = read_picture(uri, round(self.side * ROOM))
            begin, end = _view(picture, rng), _view(picture, rng)
            for share in np.linspace(0, 1, len(frames)):
                box = tuple((begin + share * (end - begin)).tolist())
                yield np.asarray(picture.resize((self.side, self.side), Image.Resampling.BILINEAR, box))

    def sound(self) -> np.ndarray:
        """float32 [samples] in -1..1: the beginning of the file, repeated if it is shorter."""
        samples = round(self.frames / self.fps * SAMPLE_RATE)
        return np.resize(read_sound(self.sound_uri, samples), samples)


def _view(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A square inside the picture, from 1/ROOM of its short side to all of it wide: left, top, right, bottom."""
    side = rng.uniform(1 / ROOM, 1) * min(picture.size)
    left, top = (rng.uniform(0, length - side) for length in picture.size)
    return np.array([left, top, left + side, top + side])


def read_picture(uri: str, short_side: int) -> Image.Image:
    """The picture, upright, in RGB, with a short side of so many pixels. Raises errors of every kind if it can't be read."""
    try:
        picture = Image.open(io.BytesIO(read_whole(*open_filesystem(uri))))
    except UnidentifiedImageError:
        raise ValueError("it is not a picture") from None
    picture.draft("RGB", (short_side, short_side))  # lets a JPEG be decoded in a smaller size that suffices
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    limit = MAX_ASPECT * min(upright.size)
    width, height = (min(length, limit) for length in upright.size)
    left, top = (upright.width - width) // 2, (upright.height - height) // 2
    scale = short_side / min(width, height)
    size = round(width * scale), round(height * scale)
    return upright.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))


def read_sound(uri: str, samples: int) -> np.ndarray:
    """The first samples of a sound, mono, at `SAMPLE_RATE`, float32; fewer if it is shorter. Raises errors of every kind."""
    filesystem, path = open_filesystem(uri)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    parts: list[np.ndarray] = []
    with filesystem.open_input_file(path) as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
        if not container.streams.audio:
            raise ValueError("the file has no sound")
        for frame in container.decode(container.streams.audio[0]):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            if sum(map(len, parts)) >= samples:
                break
        else:
            parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    if not sum(map(len, parts)):
        raise ValueError("the file has no sound")
    return np.clip(np.concatenate(parts)[:samples], -1, 1)
