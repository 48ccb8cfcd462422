"""What the trainer needs to know of a model: its batches, its loss, and how good it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from rayrec.training.callbacks import Epoch

Batch = TypeVar("Batch")


class Trainable(ABC, Generic[Batch]):
    """A model on its device, its optimizer, the examples that it learns from and the loss that it learns by.

    Each of several workers has one, with the same weights and its own share of every global batch.
    """

    terms: ClassVar[Sequence[str]] = ("loss",)
    """The names of what `losses` returns."""

    check_steps: ClassVar[int] = 100
    """The steps between two looks at the loss, each of which waits for the device. Fewer suit a model whose steps are slow."""

    advice: str
    """What a user should change when the loss stops being finite, as "lower training.learning_rate (0.001)"."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    @abstractmethod
    def steps(self, epoch: int) -> int:
        """The number of global batches in an epoch (1, 2, ...), the same for all workers."""

    @abstractmethod
    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Batch | None, int]]:
        """This worker's share of each global batch after the first `skip` ones, and the number of examples of the global batch.

        The share is None where this worker has none. Everything random must follow from the seed, the epoch and the step, so that
        a training that is resumed within an epoch sees the batches that it would have seen.
        """

    @abstractmethod
    def losses(self, share: Batch, examples: int) -> Sequence[Tensor]:
        """A scalar for each of `terms`; training minimises the first.

        They are normalised by the global batch, so that their sums over the workers are the losses of the global batch: for a mean
        over all its `examples` the sum over this share, divided by `examples`.
        """

    def validate(self) -> dict[str, float]:
        """Metrics at the end of an epoch, the same on all workers."""
        return {}

    def quality(self, epoch: Epoch) -> float:
        """How good the model was after an epoch: the best one is kept. Without a validation the latest epoch counts as the best."""
        return float(epoch.epoch)
