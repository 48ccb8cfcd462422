"""Random numbers that follow from a key: the same on all machines and devices, however the work is shared."""

from torch import Tensor

# splitmix64 (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014): its step and multipliers as signed numbers.
STEP, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def mix(numbers: Tensor) -> Tensor:
    """The finaliser of splitmix64: spreads int64 over all int64. Products wrap around."""
    numbers = (numbers ^ (numbers >> 30 & (1 << 34) - 1)) * FIRST
    numbers = (numbers ^ (numbers >> 27 & (1 << 37) - 1)) * SECOND
    return numbers ^ (numbers >> 31 & (1 << 33) - 1)


def uniform(keys: Tensor) -> Tensor:
    """A number from 0 to below 1 for each key: float64."""
    return (mix(keys) >> 11 & (1 << 53) - 1).double() * 2.0**-53
