"""Padding as TensorFlow's `same` has it, for networks whose weights were trained there."""

from torch import Tensor
from torch.nn.functional import pad


def same_padded(x: Tensor, kernel: int, stride: int, zero: int = 0) -> Tensor:
    """[N, C, H, W] with `zero` around it, so that a convolution leaves each side divided by the stride, rounded up.

    Where the number of rows or columns is odd, the odd one is at the bottom or on the right.
    """
    height, width = (_missing(side, kernel, stride) for side in x.shape[-2:])
    if not height and not width:
        return x
    return pad(x, (width // 2, width - width // 2, height // 2, height - height // 2), value=zero)


def _missing(side: int, kernel: int, stride: int) -> int:
    """How many rows or columns a picture of this side lacks."""
    return max(0, (-(-side // stride) - 1) * stride + kernel - side)
