"""A training in the calling process, without Ray."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayrec.config import ConfigError
from rayrec.stages.on_ray.training import Processes, Task, train_on_ray
from rayrec.training.exchange import SINGLE, Worker

WITHOUT_RAY = """
import sys
from rayrec.stages.on_ray.training import Processes, train_on_ray
train_on_ray(lambda task, worker, device: print(task, worker, device), {"a": 1}, "name", sys.argv[1], Processes("topics", 0, 0))
assert "ray" not in sys.modules
"""


def test_without_workers_it_runs_here_and_ray_is_not_even_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout == "{'a': 1} Worker(rank=0, world_size=1) cpu\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_of_the_calling_process_is_used_or_missed_in_a_sentence(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    seen: list[tuple[Worker, str]] = []

    def work(task: Task, worker: Worker, device: torch.device) -> None:
        seen.append((worker, device.type))

    processes = Processes("topics", workers=0, gpus_per_worker=0.5)
    if there:
        train_on_ray(work, {}, "name", "/nowhere", processes)
        assert seen == [(SINGLE, "cuda")]
    else:
        with pytest.raises(ConfigError, match=r"topics\.gpus_per_worker: with workers=0 .*set topics\.workers to 1"):
            train_on_ray(work, {}, "name", "/nowhere", processes)
