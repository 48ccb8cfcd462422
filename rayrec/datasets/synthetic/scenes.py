"""The clips of the synthetic world: a drawn thing moves in a drawn place, and the sound of a topic is heard.

None of this is clean: the thing varies in size, colour and light, several topics share places, colours and motions, and a smaller
thing of any topic moves about as a distraction.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from rayrec.datasets.synthetic.backdrops import BACKDROPS
from rayrec.datasets.synthetic.sounds import SAMPLE_RATE, SOUNDS, Sampler
from rayrec.datasets.synthetic.subjects import SUBJECTS, Colour, Pen
from rayrec.datasets.synthetic.words import PACES, TOPICS

COLOURS: dict[str, Colour] = {
    "black": (52, 52, 60),
    "blue": (50, 90, 190),
    "brown": (150, 95, 50),
    "green": (60, 150, 70),
    "grey": (130, 135, 140),
    "orange": (235, 130, 40),
    "pink": (240, 130, 170),
    "purple": (130, 70, 170),
    "red": (205, 50, 45),
    "white": (238, 238, 232),
    "yellow": (240, 205, 70),
}
SIZES, DISTRACTION_SIZES = (0.45, 0.7), (0.15, 0.25)  # shares of the picture's side

# The offset to the right and down in shares of the picture's side, the scale, and the turn in degrees, at each time (s).
Motion = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
MOTIONS: tuple[Motion, ...] = (
    lambda t, phase: (0.16 * np.sin(3 * t + phase), 0 * t, 0 * t + 1, 0 * t),  # to and fro
    lambda t, phase: (0 * t, 0.08 - 0.16 * np.abs(np.sin(4 * t + phase)), 0 * t + 1, 0 * t),  # hopping
    lambda t, phase: (0.12 * np.cos(2.5 * t + phase), 0.12 * np.sin(2.5 * t + phase), 0 * t + 1, 0 * t),  # circling
    lambda t, phase: (0 * t, 0 * t, 1 - 0.15 * (1 + np.sin(6 * t + phase)), 0 * t),  # pulsing
    lambda t, phase: (0 * t, 0.06 * np.sin(2 * t), 0 * t + 1, 20 * np.sin(4 * t + phase)),  # rocking
)


@dataclass(frozen=True)
class Scene:
    """A clip, in which one topic is seen and one heard; they differ in a clip that misleads.

    `colour` is one of `COLOURS`, `place` one of `words.PLACES`, `pace` one of `words.PACES`.
    """

    name: str
    seen: int
    colour: str
    place: str
    heard: int
    pace: str
    frames: int
    fps: int
    side: int
    seed: tuple[int, ...]

    def pictures(self) -> Iterator[np.ndarray]:
        """uint8 [side, side, 3] in RGB, `frames` times."""
        rng = np.random.default_rng((*self.seed, 0))
        backdrop = Pen(self.side, (0, 0, 0), "white")
        BACKDROPS[self.place](backdrop, rng)
        still = ImageEnhance.Brightness(backdrop.drawn().convert("RGB")).enhance(rng.uniform(0.7, 1.1))
        grey = (int(rng.uniform(60, 200)),) * 3
        sprites = [
            self._sprite(int(rng.integers(len(SUBJECTS))), grey, DISTRACTION_SIZES, rng),
            self._sprite(self.seen, _varied(COLOURS[self.colour], rng), SIZES, rng),
        ]
        for number in range(self.frames):
            picture = still.copy()
            for sprite in sprites:
                sprite.paste(picture, number)
            yield np.asarray(picture)

    def sound(self) -> np.ndarray:
        """float32 [samples] in -1..1, with some hiss."""
        rng = np.random.default_rng((*self.seed, 1))
        samples = round(self.frames / self.fps * SAMPLE_RATE)
        sound = SOUNDS[TOPICS[self.heard].sound](Sampler(samples, PACES[self.pace] * rng.uniform(0.85, 1.15), rng))
        hiss = rng.uniform(0, 0.05) * rng.standard_normal(samples)
        return (rng.uniform(0.4, 0.9) * np.clip(0.9 * sound / np.abs(sound).max() + hiss, -1, 1)).astype(np.float32)

    def _sprite(self, topic: int, colour: Colour, sizes: tuple[float, float], rng: np.random.Generator) -> "Sprite":
        pen = Pen(round(self.side * rng.uniform(*sizes)), colour)
        SUBJECTS[topic](pen)
        image = pen.drawn() if rng.uniform() < 0.5 else ImageOps.mirror(pen.drawn())
        home = rng.uniform(0.35, 0.65, 2) if sizes == SIZES else rng.uniform(0.1, 0.9, 2)
        time = np.arange(self.frames) / self.fps
        right, down, scale, turn = MOTIONS[topic % len(MOTIONS)](time, rng.uniform(0, 2 * np.pi))
        centres = np.stack([home[0] + right, home[1] + down], axis=1) * self.side
        return Sprite(image, centres, scale, turn)


@dataclass(frozen=True)
class Sprite:
    """A thing, and its place (pixels), scale and turn (degrees) in each frame."""

    image: Image.Image
    centres: np.ndarray
    scale: np.ndarray
    turn: np.ndarray

    def paste(self, picture: Image.Image, number: int) -> None:
        image = self.image
        if self.scale[number] != 1:
            image = image.resize((max(1, round(image.width * self.scale[number])),) * 2, Image.Resampling.BILINEAR)
        if self.turn[number]:
            image = image.rotate(self.turn[number], Image.Resampling.BILINEAR)
        left, top = np.round(self.centres[number] - image.width / 2).astype(int).tolist()
        picture.paste(image, (left, top), image)


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    return tuple(int(part) for part in np.clip(np.array(colour) * rng.uniform(0.85, 1.1) + rng.normal(0, 8, 3), 0, 255))  # type: ignore[return-value]
