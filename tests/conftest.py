"""Fixtures that several packages' tests share."""

import os
from collections.abc import Iterator

import pytest

# Ray reads these when it starts; the defaults make short tests wait.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S", "0.1")
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One small local Ray for the whole test run; its address, for subprocesses that join it."""
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
