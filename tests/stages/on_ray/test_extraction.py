"""How many decoders and copies of the networks there are. Without Ray."""

import pytest

from rayrec.config import Features
from rayrec.stages.on_ray.extraction import Pools, pools_of


@pytest.mark.parametrize(
    ("settings", "blocks", "cpus", "hosts", "gpu_places", "pools"),
    [
        ({}, 60, 4, 1, 0, Pools((3, 60), (1, 1), 1)),  # a laptop
        ({}, 60, 16, 1, 0, Pools((12, 60), (4, 4), 1)),
        ({}, 60, 4, 2, 0, Pools((2, 60), (2, 2), 1)),  # two small hosts
        ({}, 60, 24, 8, 0, Pools((16, 60), (8, 8), 1)),
        ({}, 60, 32, 2, 0, Pools((24, 60), (8, 8), 1)),
        ({}, 60, 1, 1, 0, Pools((1, 60), (1, 1), 0)),  # a CPU for both
        ({}, 60, 0, 1, 0, Pools((1, 60), (1, 1), 0)),  # others have all CPUs now
        ({}, 1, 16, 1, 0, Pools((1, 1), (1, 1), 1)),  # no process that would have nothing to do
        ({"gpus_per_model": 1}, 400, 64, 1, 8, Pools((64, 400), (8, 400), 0)),
        ({"gpus_per_model": 1}, 400, 64, 1, 0, Pools((64, 400), (1, 400), 0)),  # the GPUs are still to come
        ({"decoders": 4, "models": 2}, 400, 64, 1, 0, Pools((4, 4), (2, 2), 1)),
        ({"decoders": 4, "models": 1}, 400, 4, 1, 0, Pools((3, 4), (1, 1), 1)),
        ({"decoders": 4, "models": 2, "gpus_per_model": 0.5}, 400, 4, 1, 8, Pools((4, 4), (2, 2), 0)),
    ],
)
def test_pools_follow_the_cluster(
    settings: dict[str, float], blocks: int, cpus: int, hosts: int, gpu_places: int, pools: Pools
) -> None:
    assert pools_of(Features(**settings), blocks, cpus, hosts, gpu_places) == pools
