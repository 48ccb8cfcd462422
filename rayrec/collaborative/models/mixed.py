"""`mixed`: the weighted sum of what several models score, each standardised for each user.

The z-scores of all items make models comparable whose scores have other units; Lee, "Analyses of Multiple Evidence Combination",
SIGIR 1997, adds up scores in this way ("CombSUM"); Wu, Crestani and Bi, "Evaluating Score Normalization Methods in Data Fusion",
AIRS 2006, compare z-scores with other scales.
"""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy import sparse

from rayrec.collaborative.feedback import Feedback
from rayrec.collaborative.model import CollaborativeModel, Fitting
from rayrec.collaborative.models import build
from rayrec.config import Collaborative, Count, Section
from rayrec.training.callbacks import Epoch
from rayrec.workspace.checkpoint import Checkpoint

SEEDS_APART = 7919  # of one part and the next: so far that the seeds 1, 2, 3 of a comparison have no part in common


class Part(Section):
    """One of the models, with its weight."""

    model: str
    options: dict[str, Any] = {}
    weight: Annotated[float, Field(gt=0)] = 1.0
    times: Count = 1  # how often it is fitted, each time with another seed; all of them together have the weight


class Mixed(CollaborativeModel):
    class Options(Section):
        parts: Annotated[list[Part], Field(min_length=1)]

    options: Options

    def __init__(self, options: Section) -> None:
        super().__init__(options)
        parts = [part for part in self.options.parts for _ in range(part.times)]
        self.models = [build(Collaborative(model=part.model, options=part.options)) for part in parts]
        self.weights = [part.weight / part.times for part in parts]

    @property
    def epochs(self) -> int:
        return max(model.epochs for model in self.models)

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(name for model in self.models for name in model.modalities))

    def fit(self, feedback: Feedback, fitting: Fitting) -> list[Epoch]:
        """The epochs are those of all parts, one after the other. Each part has a seed and a checkpoint of its own."""
        found, checkpoints = list[Epoch](), list[Checkpoint]()
        for number, model in enumerate(self.models):
            own = replace(fitting, seed=fitting.seed + SEEDS_APART * number)
            if fitting.checkpoint is not None:
                checkpoints.append(Checkpoint(fitting.checkpoint.fs, f"{fitting.checkpoint.path}.part{number}"))
                own = replace(own, checkpoint=checkpoints[-1])
            found += model.fit(feedback, own)
        for checkpoint in checkpoints if fitting.worker.rank == 0 else ():
            checkpoint.delete()
        return found

    def scores(self, user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        return self._sum([model.scores(user_B, likes_BI) for model in self.models])

    def similar(self, item_B: np.ndarray) -> np.ndarray:
        return self._sum([model.similar(item_B) for model in self.models])

    def _sum(self, scores: list[np.ndarray]) -> np.ndarray:
        weights = np.array(self.weights, np.float32)
        first_BI, *others = (weight * standardised(each_BI) for weight, each_BI in zip(weights, scores, strict=True))
        found_BI: np.ndarray = sum(others, first_BI)
        return found_BI

    def arrays(self) -> dict[str, np.ndarray]:
        return {f"{number}.{name}": values for number, model in enumerate(self.models) for name, values in model.arrays().items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        for number, model in enumerate(self.models):
            prefix = f"{number}."
            model.restore({name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)})


def standardised(scores_BI: np.ndarray) -> np.ndarray:
    """Each row without its mean, by its standard deviation, index 0 left out of both; zeros where all items are equal."""
    items_BI = scores_BI[:, 1:]
    mean_B1, deviation_B1 = items_BI.mean(axis=1, keepdims=True), items_BI.std(axis=1, keepdims=True)
    found_BI: np.ndarray = (scores_BI - mean_B1) / np.where(deviation_B1 > 0, deviation_B1, 1)
    return found_BI
