"""The pipeline of the stage `extract` on Ray Data: a pool of decoders and a pool of networks, which work at the same time."""

import logging
from collections.abc import Iterator

import pyarrow as pa
import ray
import ray.data
import torch

from rayrec.config import Config, Features
from rayrec.features.rows import EXTRACTED, Networks, decode_rows, load_networks, network_rows, resolved
from rayrec.serving.cluster.connection import connect
from rayrec.stages.on_ray.data import decoded, quiet_context

TORCH_THREADS = 2  # of each copy of the networks that runs on CPUs

log = logging.getLogger(__name__)


class FeatureExtractor:
    """The actor that holds the networks. The driver sends them, so that every copy is the same and weights are loaded once."""

    def __init__(self, settings: Features, networks: "ray.ObjectRef[Networks]") -> None:
        torch.set_num_threads(TORCH_THREADS)
        self.settings = settings
        self.networks = ray.get(networks).to(torch.device("cuda" if ray.get_gpu_ids() else "cpu"))

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return network_rows(decoded, self.settings, self.networks)


def extract_rows(rows: pa.Table, config: Config, batch: int) -> Iterator[pa.Table]:
    """The rows of EXTRACTED for catalog rows (`uri` and those of `rows.GIVEN`), in their order, about `batch` rows at a time.

    Batches for the networks mix the frames of many videos. Raises `ConfigError` before any work for weights or settings that can't
    be used.
    """
    networks = load_networks(config.features, config.seed)
    features = resolved(config.features, networks)
    connect(config)
    with ray.data.DataContext.current(quiet_context()):
        pipeline = _pipeline(rows, features, networks)
    for done in pipeline.iter_batches(batch_size=batch, batch_format="pyarrow", prefetch_batches=0):
        yield done.cast(EXTRACTED)


def _pipeline(rows: pa.Table, features: Features, networks: Networks) -> "ray.data.Dataset":
    resources = ray.cluster_resources()
    if features.gpus_per_model > resources.get("GPU", 0):
        log.warning("features.gpus_per_model=%g, but the cluster has no such GPU now: waiting for one", features.gpus_per_model)
    # A model on a GPU reserves no CPU. A model on a CPU reserves one, unless none would be left to decode.
    cpus = int(resources.get("CPU", 0))
    model_cpus = 0 if features.gpus_per_model or cpus <= features.models else 1
    decoders = max(1, min(features.decoders, cpus - model_cpus * features.models))
    return decoded(rows, decode_rows, features, features.batch_videos, (decoders, features.decoders)).map_batches(
        FeatureExtractor,
        fn_constructor_args=(features, ray.put(networks)),
        batch_size=features.batch_videos,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=features.models),
        num_cpus=model_cpus,
        num_gpus=features.gpus_per_model,
    )
