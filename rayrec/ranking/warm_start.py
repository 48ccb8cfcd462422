"""Lets a training go on from a ranker that was trained before, on what the log has from later on.

Vocabularies grow behind their old values (`FieldEncoder.grown`), so that each value keeps its index. A parameter that has a row for
each value takes over the old rows; the new ones are those of an untrained model. The optimizer's moments are kept in a file beside
the ranker, so that the training goes on as if it had never ended.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import pyarrow.fs as pafs
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from rayrec.config import Ranker, dump
from rayrec.data.errors import DataError
from rayrec.data.shards import LogFacts
from rayrec.ranking.embedding import EmbeddingTable
from rayrec.ranking.scorer import RankerError, Scorer
from rayrec.workspace.files import read_whole, write_whole

OPTIMIZER = "optimizer.safetensors"
UNTIL = "until"
ANEW = "set training.from to null to train a new ranker"


@dataclass(frozen=True)
class WarmStart:
    """A trained ranker, its optimizer's state by "name of the parameter|name of the moment", and how far its data went."""

    scorer: Scorer
    moments: dict[str, Tensor]
    until: int  # UTC ms: it has learned from what its log had before

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str, settings: Ranker) -> Self:
        """Raises `RankerError` for a ranker that can't be read, or that was trained with other settings or without `save`."""
        scorer = Scorer.load(fs, folder)
        refuse_other_settings(scorer.settings, settings)
        path = f"{folder}/{OPTIMIZER}"
        try:
            moments = load_tensors(read_whole(fs, path))
        except FileNotFoundError as error:
            raise RankerError(f"{path} is not there, since an earlier rayrec trained this ranker; {ANEW}") from error
        return cls(scorer, moments, int(moments.pop(UNTIL)))

    def refuse_nothing_new(self, log: LogFacts, recent: int) -> None:
        """Raises `DataError` for an encoded log that has nothing that the ranker has not learned, or that has no times."""
        if log.split_by != "time":
            raise DataError(f"training.from: the log has no times, so that none of it is newer than the published ranker; {ANEW}")
        if not recent:
            raise DataError(
                f"training.from: the published ranker has learned from all of the training split, which ends at "
                f"{datetime.fromtimestamp(log.validation_at / 1000, UTC):%Y-%m-%d %H:%M} UTC; add newer interactions, or {ANEW}"
            )

    def take_over(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Give a new model, whose vocabularies may have grown, the weights, and its optimizer the moments.

        Raises `RankerError` if the new model is of another form.
        """
        places, state = places_of_rows(self.scorer.model, model), model.state_dict()
        for name, old in self.scorer.model.state_dict().items():
            if name not in state or state[name].shape[1:] != old.shape[1:]:
                raise RankerError(f"the weights {name!r} of the ranker to go on from don't fit this model; {ANEW}")
            _copy_rows(old, state[name], places.get(name))  # into the model, whose memory this is
        for name, parameter in model.named_parameters():
            for key, moment in self.moments.items():
                owner, _, kind = key.rpartition("|")
                if owner == name:
                    optimizer.state[parameter][kind] = _grown(moment, parameter, places.get(name))


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as in `WarmStart.moments`."""
    return {
        f"{name}|{kind}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def save_optimizer(fs: pafs.FileSystem, folder: str, model: nn.Module, optimizer: torch.optim.Optimizer, until: int) -> None:
    """Write what `WarmStart.load` reads beside the ranker itself."""
    tensors = moments_of(model, optimizer) | {UNTIL: torch.tensor(until)}
    write_whole(fs, f"{folder}/{OPTIMIZER}", save_tensors({name: value.contiguous() for name, value in tensors.items()}))


def refuse_other_settings(trained: Ranker, wanted: Ranker) -> None:
    """Raises `RankerError` unless a ranker was trained with the wanted settings."""
    before, now = dump(trained), dump(wanted)
    for name, value in now.items():
        # The towers of goals are in their order, which dicts leave out of account.
        if before[name] != value or (name == "goals" and list(before[name]) != list(value)):
            raise RankerError(
                f"training.from: the published ranker was trained with ranker.{name}={before[name]}, and now it is {value}; change "
                f"it back, or {ANEW}"
            )


def places_of_rows(old: nn.Module, grown: nn.Module) -> dict[str, Tensor]:
    """For the weights of vocabularies that share one matrix: where each row is in the grown one. All other rows stay in place."""
    modules = dict(grown.named_modules())
    return {
        f"{name}.weight": module.places_in(modules[name])
        for name, module in old.named_modules()
        if isinstance(module, EmbeddingTable) and isinstance(modules.get(name), EmbeddingTable)
    }


def _copy_rows(old: Tensor, grown: Tensor, places: Tensor | None) -> None:
    """Copy the rows of a tensor into a larger one, in place."""
    with torch.no_grad():
        if places is not None:
            grown[places.to(grown.device)] = old.to(grown)
        elif old.ndim:
            grown[: len(old)] = old.to(grown)
        else:
            grown.copy_(old)


def _grown(moment: Tensor, parameter: nn.Parameter, places: Tensor | None) -> Tensor:
    """A moment for a parameter that has grown: zero in new rows. A count of steps stays as it is."""
    if not moment.ndim:
        return moment.to(parameter.device)
    grown = torch.zeros_like(parameter)
    _copy_rows(moment, grown, places)
    return grown
