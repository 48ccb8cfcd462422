"""The losses of each model's first 20 training steps on a fixed small log are those in `golden_losses.json`.

A curve that moves means that a model, its inputs, its optimizer or the training loop now computes something else. Where that is
intended, and for a new model, make the curves anew and commit the file; its diff shows which models changed:

    python -m tests.ranking.test_golden_losses             # all models
    python -m tests.ranking.test_golden_losses NAME ...    # these alone
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rayrec.config import Training
from rayrec.data.batches import Batch
from rayrec.ranking import models
from rayrec.ranking.fitting import train_ranker
from rayrec.ranking.model import RankingModel
from tests.fixtures.ranking import MODELS, prepared, small_log, small_ranker, with_model

GOLDEN = Path(__file__).with_name("golden_losses.json")
COMMAND = "python -m tests.ranking.test_golden_losses"
# Two epochs of ten steps each, with dropout on.
SETTINGS = Training(epochs=2, batch_size=42, learning_rate=5e-3, cut_histories=0.2, hidden_clicks=0.1, clip=10.0)
STEPS, SEED = 20, 7


def losses_of(name: str) -> list[float]:
    """The mean loss of the batch of each step, as the trainer computes it."""
    ranker = with_model(small_ranker().model_copy(update={"fusion": "user_attention", "history_connection": "both"}), name)
    with one_thread(), recorded_losses(models.check(ranker)) as found:
        train_ranker(prepared(small_log(), ranker), ranker, SETTINGS, SEED)
    return [round(loss, 6) for loss in found]


@contextmanager
def recorded_losses(model: type[RankingModel]) -> Iterator[list[float]]:
    """The means of what `model.losses` returns while the block runs."""
    found: list[float] = []
    original = model.losses

    def losses(self: RankingModel, batch: Batch) -> torch.Tensor:
        values = original(self, batch)
        found.append(float(values.detach().mean()))
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "losses", losses)
        yield found


@contextmanager
def one_thread() -> Iterator[None]:
    """The order in which several threads add up is not fixed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", MODELS)
def test_the_first_steps_have_the_golden_losses(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert name in golden, f"model {name!r} has no golden losses yet: run `{COMMAND} {name}` and commit {GOLDEN.name}"
    found = losses_of(name)
    assert len(found) == STEPS
    assert found == pytest.approx(golden[name], abs=1e-4), (
        f"the losses of model {name!r} have changed; if that is intended, run `{COMMAND} {name}` and commit {GOLDEN.name}"
    )


def test_no_golden_losses_are_left_of_models_that_are_gone() -> None:
    gone = sorted(set(json.loads(GOLDEN.read_text())) - set(MODELS))
    assert not gone, f"there are no such models any more: {gone}; run `{COMMAND}`"


def write(names: list[str]) -> None:
    kept = json.loads(GOLDEN.read_text()) if names and GOLDEN.exists() else {}
    curves = kept | {name: losses_of(name) for name in names or MODELS}
    lines = [f"  {json.dumps(name)}: {json.dumps(curves[name])}" for name in sorted(curves)]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write(sys.argv[1:])
