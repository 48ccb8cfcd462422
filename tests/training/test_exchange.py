"""Run as a script, this file is three workers that train one model: `python test_exchange.py FOLDER`."""

import multiprocessing
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rayrec.training.exchange import SINGLE, Worker, average_statistics, exchange_gradients, gather_rows, share_weights
from rayrec.training.optimizers import LazyAdam, clip_gradients
from rayrec.training.trainer import Trainer
from tests.training.test_trainer import Line

ROOT = Path(__file__).parents[2]
COUNT = 3
BATCHES = [32, 31, 2, 30, 1]  # with two rows or one, some workers have an empty share
LENGTHS = range(8)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4, sparse=True)
        self.first_order = nn.Embedding(20, 1, sparse=True)
        self.tower = nn.Linear(12, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.first_order(ids).sum((1, 2)) + self.tower(self.table(ids).flatten(1)).squeeze(1)


def train(worker: Worker) -> dict[str, list[torch.Tensor]]:
    """The gradients of the first batch (dense), and the weights after the last."""
    torch.manual_seed(1)
    model = Model()
    optimizer = LazyAdam(model.parameters(), lr=0.1, weight_decay=0.01)
    for number, size in enumerate(BATCHES):
        ids, labels = torch.randint(20, (size, 3)), torch.rand(size).round()
        mine = slice(worker.rank, None, worker.world_size)
        optimizer.zero_grad()
        if len(ids[mine]):
            (binary_cross_entropy_with_logits(model(ids[mine]), labels[mine], reduction="sum") / size).backward()
        exchange_gradients(model, worker)
        norm = clip_gradients(model.parameters(), 0.1)
        if number == 0:
            gradients = [parameter.grad.to_dense() for parameter in model.parameters() if parameter.grad is not None] + [norm]
        optimizer.step()
    return {"gradients": gradients, "weights": [parameter.detach() for parameter in model.parameters()]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("exchange")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(COUNT)]


def test_three_workers_train_the_model_that_one_trains(results: list[dict[str, list[torch.Tensor]]]) -> None:
    expected = train(SINGLE)
    two_not_used = [torch.zeros(2, 2), torch.zeros(2)]
    *gradients, norm = expected["gradients"]
    torch.testing.assert_close(results[0]["gradients"], [*gradients, *two_not_used, norm])
    torch.testing.assert_close(results[0]["weights"][:-2], expected["weights"][:-2])


def test_all_workers_hold_the_same_weights_bit_for_bit(results: list[dict[str, list[torch.Tensor]]]) -> None:
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0]["weights"], other["weights"], strict=True))


def test_everybody_gets_all_rows_in_order(results: list[dict[str, list[torch.Tensor]]]) -> None:
    for result in results:
        assert [len(rows) for rows in result["rows"]] == list(LENGTHS)
        assert all(torch.equal(rows, torch.arange(len(rows) * 2.0).view(-1, 2)) for rows in result["rows"])


def test_the_trainer_does_with_three_workers_what_it_does_with_one(results: list[dict[str, list[torch.Tensor]]]) -> None:
    """Some of them have an empty share of the last batch."""
    line = Line()
    losses = [torch.tensor(epoch.loss) for epoch in Trainer(epochs=5, seed=0).fit(line)]
    for result in results:
        torch.testing.assert_close(result["losses"], losses)
        torch.testing.assert_close(result["line"], list(line.model.state_dict().values()))


def test_statistics_of_batch_norms_are_averaged(results: list[dict[str, list[torch.Tensor]]]) -> None:
    assert all(result["statistics"][0].tolist() == [1.0, 1.0] for result in results)  # of 0, 1, 2
    assert averaged(Worker(2))[0].tolist() == [2.0, 2.0]


def test_all_workers_take_over_the_weights_of_the_first(results: list[dict[str, list[torch.Tensor]]]) -> None:
    assert all(result["shared"][0].tolist() == [[0.0]] for result in results)
    assert shared(Worker(2))[0].tolist() == [[2.0]]


def shared(worker: Worker) -> list[torch.Tensor]:
    """A weight that was the worker's rank before."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, worker.rank)
    share_weights(layer, worker)
    return [layer.weight.detach()]


def averaged(worker: Worker) -> list[torch.Tensor]:
    """The mean of a batch norm that was the worker's rank before."""
    norm = nn.BatchNorm1d(2)
    assert norm.running_mean is not None
    norm.running_mean.fill_(worker.rank)
    average_statistics(norm, worker)
    return [norm.running_mean]


def work(rank: int, folder: Path) -> None:
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=COUNT, timeout=timedelta(seconds=60))
    worker = Worker(rank, COUNT)
    rows = [
        gather_rows(torch.arange(length * 2.0).view(-1, 2)[length * rank // COUNT : length * (rank + 1) // COUNT], worker)
        for length in LENGTHS
    ]
    line = Line(worker=worker)
    losses = [torch.tensor(epoch.loss) for epoch in Trainer(epochs=5, seed=0, worker=worker).fit(line)]
    more = {"rows": rows, "losses": losses, "line": list(line.model.state_dict().values()), "statistics": averaged(worker)}
    more["shared"] = shared(worker)
    torch.save(train(worker) | more, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")  # imports torch once, not three times; it has not started any thread yet
    processes = [fork.Process(target=work, args=(rank, Path(sys.argv[1]))) for rank in range(COUNT)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
