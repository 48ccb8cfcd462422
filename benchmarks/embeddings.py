"""Does a training step grow with the embedding table? Milliseconds of one with 10 thousand rows and with 10 million.

    PYTHONPATH=. python benchmarks/embeddings.py

A step looks 1024 x 20 ids up, puts an MLP of 128-64 on top, goes backward and lets `LazyAdam` step, alone or as two workers (gloo).
Torch's dense gradients and Adam stand beside it, with fewer rows. Ids come from the first 10 thousand rows whatever the table holds
(`few`: nothing but the table grows), by Zipf's law, as logs have them, or uniformly, the worst case: the larger table has twice as
many distinct rows in a batch, and none in a cache. The two tables take turns within the same processes, ten steps each.
"""

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from typing import Any

import torch
import torch.distributed as dist
from figures import median_of, peak_gib, show
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rayrec.training.exchange import Worker, exchange_gradients
from rayrec.training.optimizers import LazyAdam

BATCH, IDS, COLUMNS = 1024, 20, 16
FEW = 10_000  # rows
TURN = 10  # steps with one table before the other's turn


@dataclass(frozen=True)
class Case:
    ids: str
    workers: int
    rows: tuple[int, int]
    sparse: bool = True


class Model(nn.Module):
    def __init__(self, rows: int, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, COLUMNS, sparse=sparse, _weight=torch.empty(rows, COLUMNS).uniform_(-0.05, 0.05))
        self.mlp = nn.Sequential(nn.Linear(IDS * COLUMNS, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.mlp(self.table(ids).flatten(1)).squeeze(1)


def draw(way: str, rows: int, number: int) -> Tensor:
    """Ids [number, BATCH, IDS]."""
    shape = number, BATCH, IDS
    if way == "zipf":  # the r-th most frequent id comes with probability ~ 1 / r
        return torch.randperm(rows)[(rows ** torch.rand(shape, dtype=torch.float64)).long().clamp(max=rows) - 1]
    return torch.randint(min(rows, FEW) if way == "few" else rows, shape)


class Trainer:
    """One model, its optimizer and its ids."""

    def __init__(self, worker: Worker, rows: int, way: str, sparse: bool) -> None:
        self.worker, self.model = worker, Model(rows, sparse)
        parameters = self.model.parameters()
        self.optimizer = LazyAdam(parameters, lr=1e-3) if sparse else torch.optim.Adam(parameters, lr=1e-3)
        share = slice(worker.rank, None, worker.world_size)
        self.batches = cycle(draw(way, rows, 64)[:, share].contiguous())
        self.labels = torch.rand(BATCH)[share].round()

    def step(self) -> float:
        """Milliseconds."""
        ids = next(self.batches)
        started = time.perf_counter()
        self.optimizer.zero_grad()
        (binary_cross_entropy_with_logits(self.model(ids), self.labels, reduction="sum") / BATCH).backward()
        exchange_gradients(self.model, self.worker)
        self.optimizer.step()
        return (time.perf_counter() - started) * 1e3


def work(worker: Worker, threads: int, meeting: str, answers: Any, case: Case, steps: int) -> None:
    """One process: the median step with each table, and the process's peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    if worker.world_size > 1:
        file = f"file://{meeting}/meeting"
        dist.init_process_group(
            "gloo", init_method=file, rank=worker.rank, world_size=worker.world_size, timeout=timedelta(seconds=120)
        )
    trainers = [Trainer(worker, rows, case.ids, case.sparse) for rows in case.rows]
    times: list[list[float]] = [[] for _ in trainers]
    for _ in range(steps // TURN + 1):
        for trainer, taken in zip(trainers, times, strict=True):
            taken.extend(trainer.step() for _ in range(TURN))
    answers.put(([median_of(taken[TURN:]) for taken in times], peak_gib()))
    if worker.world_size > 1:
        dist.destroy_process_group()


def measured(case: Case, threads: int, steps: int) -> dict[str, Any]:
    """The slowest worker's median step with each table, and the largest peak memory."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as meeting:
        workers = [Worker(rank, case.workers) for rank in range(case.workers)]
        shared = threads // case.workers, meeting, answers, case, steps
        processes = [context.Process(target=work, args=(worker, *shared)) for worker in workers]
        for process in processes:
            process.start()
        found = [answers.get(timeout=600) for _ in processes]
        for process in processes:
            process.join()
    small, large = (max(times[table] for times, _ in found) for table in (0, 1))
    return {
        "optimizer": "LazyAdam" if case.sparse else "dense Adam",
        "ids": case.ids,
        "workers": case.workers,
        "rows": " / ".join(f"{rows:,}" for rows in case.rows),
        "small step, ms": small,
        "large step, ms": large,
        "ratio": large / small,
        "peak GiB": max(peak for _, peak in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=10_000, help="rows of the small table")
    parser.add_argument("--large", type=int, default=10_000_000, help="rows of the large table")
    parser.add_argument("--dense", type=int, default=1_000_000, help="rows of the larger of the dense tables")
    parser.add_argument("--steps", type=int, default=400, help="with each table; a tenth of them with dense gradients")
    parser.add_argument("--threads", type=int, default=2, help="shared out among the workers")
    args = parser.parse_args()

    ways, tables = ("few", "zipf", "uniform"), (args.small, args.large)
    rows = [measured(Case(way, workers, tables), args.threads, args.steps) for workers in (1, 2) for way in ways]
    rows.append(measured(Case("zipf", 1, (args.small, args.dense), sparse=False), args.threads, args.steps // 10))
    show("A training step against the size of the table", rows, threads=args.threads, steps=args.steps)


if __name__ == "__main__":
    main()
