"""Which frames of a video are kept, and in which form: squares of sampled frames and clips, and a cover."""

import io

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

MIN_CONTRAST = 5.0  # a frame with a smaller standard deviation, in grey levels of 0 to 255, counts as nearly uniform
THUMBNAIL_WIDTH = 256
MAX_ASPECT = 8  # the long side of a picture is squeezed to this multiple of the short side, so that strips fit into memory


class Squares:
    """Collects the frames at the given positions as squares: the short side is resized, then the centre is cropped."""

    def __init__(self, positions: np.ndarray, size: int | None, resize: int | None) -> None:
        assert size is not None, "`rows.resolved` takes the sizes from the networks"
        self.positions, self.size, self.resize = positions, size, resize or size
        self.wanted = set(positions.ravel().tolist())
        self.taken: dict[int, np.ndarray] = {}
        self.reformatter = VideoReformatter()

    def take(self, position: int, frame: VideoFrame) -> None:
        if position in self.wanted:
            self.taken[position] = self.square(frame)

    def square(self, frame: VideoFrame) -> np.ndarray:
        """The square of a frame, upright, uint8 [size, size, 3]."""
        short, size = min(frame.width, frame.height), self.size
        width, height = (min(round(side * self.resize / short), MAX_ASPECT * self.resize) for side in (frame.width, frame.height))
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


def even_positions(total: int, count: int) -> np.ndarray:
    """The middle frames of `count` equal parts of a video of `total` frames. In a shorter video, frames are repeated evenly."""
    return ((np.arange(count) + 0.5) * total / count).astype(int)


def clip_positions(total: int, frames: int, clips: int) -> np.ndarray:
    """Consecutive frames around the middles of `clips` equal parts of a video of `total` frames, int [clips, frames].

    Equal clips are taken once. A video that is shorter than a clip becomes one slow clip.
    """
    if total <= frames:
        return even_positions(total, frames)[None]
    middles = (np.arange(clips) + 0.5) * total / clips
    starts = np.unique(np.clip(np.floor(middles - frames / 2), 0, total - frames).astype(int))
    return starts[:, None] + np.arange(frames)


class Cover:
    """Chooses the cover: of four frames per second in the first two seconds, the first that is not nearly uniform.

    If all of them are (a fade from black), the other frames that are decoded anyway are tried, and the one with the most contrast
    is taken.
    """

    def __init__(self, total: int, fps: float) -> None:
        self.early = set(range(0, max(1, min(total, round(2 * fps))), max(1, round(fps / 4))))
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


def thumbnail(frame: VideoFrame) -> bytes:
    """A JPEG of the whole frame, upright, at most `THUMBNAIL_WIDTH` pixels wide as displayed."""
    scale = min(1, THUMBNAIL_WIDTH / displayed(frame)[0])
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    pixels = upright(frame.reformat(width, height, "rgb24", threads=1).to_ndarray(), frame)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def displayed(frame: VideoFrame) -> tuple[int, int]:
    """Width and height as displayed."""
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """The pixels, rotated as the file says, because phones store portrait videos on their side."""
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
