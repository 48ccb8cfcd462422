"""Which frames of a video are kept, and in which form: squares of sampled frames and clips, and a cover."""

import io
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

MIN_CONTRAST = 5.0  # a frame with a smaller standard deviation, in grey levels of 0 to 255, counts as nearly uniform
THUMBNAIL_WIDTH = 256
ROUNDING_ERROR = 1e-6  # of sums of floating-point numbers: a frame that begins this little after a moment counts as shown at it
MAX_ASPECT = 8  # the long side of a picture is squeezed to this multiple of the short side, so that strips fit into memory


class Squares:
    """Collects the frames at the given positions as squares: the short side is resized, then the centre is cropped."""

    def __init__(self, positions: np.ndarray, size: int | None, resize: int | None, pixel_aspect: float = 1.0) -> None:
        assert size is not None, "`rows.resolved` takes the sizes from the networks"
        self.pixel_aspect = pixel_aspect
        self.positions, self.size, self.resize = positions, size, resize or size
        self.wanted = set(positions.ravel().tolist())
        self.taken: dict[int, np.ndarray] = {}
        self.reformatter = VideoReformatter()

    def take(self, position: int, frame: VideoFrame) -> None:
        if position in self.wanted:
            self.taken[position] = self.square(frame)

    def square(self, frame: VideoFrame) -> np.ndarray:
        """The square of a frame, upright, uint8 [size, size, 3]."""
        sides, size = (frame.width * self.pixel_aspect, frame.height), self.size
        width, height = (min(round(side * self.resize / min(sides)), MAX_ASPECT * self.resize) for side in sides)
        pixels = self.reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        left, top = (width - size) // 2, (height - size) // 2
        return upright(pixels[top : top + size, left : left + size], frame)

    def stack(self) -> np.ndarray | None:
        """uint8 [*positions, size, size, 3]. A position that was not decoded repeats the last one before it, or else the first."""
        if not self.taken:
            return None
        known = np.array(sorted(self.taken))
        nearest = known[np.maximum(np.searchsorted(known, self.positions.ravel(), side="right") - 1, 0)]
        squares = np.stack([self.taken[position] for position in nearest.tolist()])
        return squares.reshape(*self.positions.shape, self.size, self.size, 3)


def even_positions(starts: np.ndarray, count: int) -> np.ndarray:
    """The frames that are shown at the middles of `count` equal parts of a video, whose frames have these `starts`, int [count].

    `starts` has one number more than there are frames: the last one is the end of the video. A frame that is shown for long, or one
    of a short video, is repeated.
    """
    return np.searchsorted(starts[:-1], _middles(starts, count) + ROUNDING_ERROR, side="right") - 1


def clip_positions(starts: np.ndarray, frames: int, clips: int) -> np.ndarray:
    """Consecutive frames around the middles of `clips` equal parts of a video, int [clips, frames].

    Equal clips are taken once. A video that is shorter than a clip becomes one slow clip.
    """
    total = len(starts) - 1
    if total <= frames:
        return even_positions(starts, frames)[None]
    middles = np.interp(_middles(starts, clips), starts, np.arange(total + 1))
    first = np.unique(np.clip(np.floor(middles - frames / 2 + ROUNDING_ERROR), 0, total - frames).astype(int))
    return first[:, None] + np.arange(frames)


def _middles(starts: np.ndarray, count: int) -> np.ndarray:
    """The times of the middles of equal parts."""
    return starts[0] + (np.arange(count) + 0.5) / count * (starts[-1] - starts[0])


class Cover:
    """Chooses the cover: of four frames per second in the first two seconds, the first that is not nearly uniform.

    If all of them are (a fade from black), the other frames that are decoded anyway are tried, and the one with the most contrast
    is taken.
    """

    def __init__(self, starts: np.ndarray) -> None:
        times = starts[0] + np.arange(0, min(2.0, starts[-1] - starts[0]), 0.25)
        self.early = set((np.searchsorted(starts[:-1], times + ROUNDING_ERROR, side="right") - 1).tolist())
        self.best: VideoFrame | None = None
        self.contrast = -1.0
        self.reformatter = VideoReformatter()

    @property
    def found(self) -> bool:
        return self.contrast >= MIN_CONTRAST

    def consider(self, frame: VideoFrame) -> None:
        if self.found:
            return
        contrast = float(self.reformatter.reformat(frame, 32, 32, "gray", threads=1).to_ndarray().std())
        if contrast > self.contrast:
            self.best, self.contrast = frame, contrast


def thumbnail(frame: VideoFrame, pixel_aspect: float = 1.0, side: int | None = None) -> bytes:
    """A JPEG of the whole frame, upright, of the `kept_size`."""
    size = kept_size(displayed(frame, pixel_aspect), side)
    width, height = size[::-1] if _orientation(frame)[0] else size
    return jpeg(upright(frame.reformat(width, height, "rgb24", threads=1).to_ndarray(), frame))


def kept_size(size: tuple[int, int], side: int | None = None) -> tuple[int, int]:
    """Width and height in which a picture is kept: `THUMBNAIL_WIDTH` pixels wide, or more if its short side were less than `side`.

    A picture is never made larger than it is.
    """
    scale = min(1, max(THUMBNAIL_WIDTH / size[0], (side or 0) / min(size)))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def displayed(frame: VideoFrame, pixel_aspect: float = 1.0) -> tuple[int, int]:
    """Width and height as displayed, with square pixels. The pixels of some formats are wider than they are high."""
    sides = max(1, round(frame.width * pixel_aspect)), frame.height
    return sides[::-1] if _orientation(frame)[0] else sides


def upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels as the file says that they are shown: phones store portrait videos on their side, and selfies mirrored."""
    transposed, mirrored, upside_down = _orientation(frame)
    shown = pixels.swapaxes(0, 1) if transposed else pixels
    return np.ascontiguousarray(shown[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether rows and columns are swapped, and whether what comes out is then mirrored and turned upside down.

    The display matrix maps a point (x, y) of the frame to (a x + c y, b x + d y). A turn that is no multiple of a quarter becomes
    the nearest one.
    """
    try:
        side_data: Any = frame.side_data  # PyAV's types know one key of it
        a, b, _, c, d = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32)[:5].tolist()
    except KeyError:
        return False, False, False
    except ValueError:  # PyAV does not know the type of another piece of side data; of the matrix it tells the angle alone
        turns = round(frame.rotation / 90) % 4
        return turns % 2 == 1, turns in (2, 3), turns in (1, 2)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
