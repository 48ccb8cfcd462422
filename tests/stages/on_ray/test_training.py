"""A training in the calling process, without Ray."""

import subprocess
import sys
from pathlib import Path

WITHOUT_RAY = """
import sys
from rayrec.stages.on_ray.training import Processes, train_on_ray
train_on_ray(lambda task, worker, device: print(task, worker, device), {"a": 1}, "name", sys.argv[1], Processes("topics", 0, 0))
assert "ray" not in sys.modules
"""

WITH_A_GPU = """
import ray
from rayrec.config import Config
from rayrec.serving.cluster.connection import reserved_device
from rayrec.stages.on_ray.training import with_gpus
ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
print(with_gpus(Config(), 0, reserved_device)(), with_gpus(Config(), 1, reserved_device)())
"""


def test_without_workers_it_runs_here_and_ray_is_not_even_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout == "{'a': 1} Worker(rank=0, world_size=1) cpu\n"
    assert list(tmp_path.iterdir()) == []


def test_work_that_needs_a_gpu_runs_where_ray_has_reserved_one() -> None:
    """The cluster says that it has one, and torch does not look before a tensor goes there."""
    done = subprocess.run([sys.executable, "-c", WITH_A_GPU], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["cpu", "cuda"]
