"""The pipeline of the stage `extract` on Ray Data: a pool of decoders and a pool of networks, which work at the same time."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import ray
import ray.data
import torch

from rayrec.config import Config, Features
from rayrec.features.rows import Networks, decode_rows, load_networks, network_rows, resolved, with_cover_side
from rayrec.serving.cluster.connection import connect, reserved_device
from rayrec.serving.cluster.room import await_room, room_for
from rayrec.stages.on_ray.data import decoded, quiet_context
from rayrec.stages.on_ray.writing import Block

TORCH_THREADS = 2  # of each copy of the networks that runs on CPUs


class FeatureExtractor:
    """The actor that holds the networks. The driver sends them, so that every copy is the same and weights are loaded once."""

    def __init__(self, settings: Features, networks: "ray.ObjectRef[Networks]") -> None:
        torch.set_num_threads(TORCH_THREADS)
        self.settings = settings
        self.networks = ray.get(networks).to(reserved_device())

    def __call__(self, decoded: pa.Table) -> pa.Table:
        return network_rows(decoded, self.settings, self.networks)


def extract_rows(rows: pa.Table, config: Config) -> Iterator[Block]:
    """The rows of EXTRACTED for catalog rows (`uri`, `cover_uri` and those of `rows.GIVEN`), in blocks, as they are done.

    The blocks stay with the workers. Batches for the networks mix the frames of many videos. Raises `ConfigError` before any work
    for weights or settings that can't be used.
    """
    networks = load_networks(config.features, config.seed)
    features = resolved(with_cover_side(config), networks)
    connect(config)
    with ray.data.DataContext.current(quiet_context(in_order=False)):
        pipeline = _pipeline(rows, features, networks)
    for bundle in pipeline.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield block.ref, block.metadata.num_rows


def _pipeline(rows: pa.Table, features: Features, networks: Networks) -> "ray.data.Dataset":
    gpus = features.gpus_per_model
    if gpus:
        await_room("features.models", 1 if features.models == "auto" else features.models, gpus=gpus)
    blocks = math.ceil(rows.num_rows / features.batch_videos)
    cpus, hosts = (
        int(ray.available_resources().get("CPU", 0)),
        sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes()),
    )
    pools = pools_of(features, blocks, cpus, hosts, room_for({"GPU": gpus}) if gpus else 0)
    return decoded(rows, decode_rows, features, features.batch_videos, pools.decoders, features.decode_timeout_s).map_batches(
        FeatureExtractor,
        fn_constructor_args=(features, ray.put(networks)),
        # Ray Data wants a number where GPUs are asked for. Elsewhere a batch is a block, so that the rounding of a video's vectors
        # does not depend on which videos come at the same time.
        batch_size=features.batch_videos if gpus else None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=pools.models[0], max_size=pools.models[1]),
        num_cpus=pools.model_cpus,
        num_gpus=gpus,
    )


class Pools(NamedTuple):
    """How many decoders and copies of the networks there are: from the first number to the second, as the cluster has room."""

    decoders: tuple[int, int]
    models: tuple[int, int]
    model_cpus: int  # that each copy of the networks reserves


def pools_of(features: Features, blocks: int, cpus: int, hosts: int, gpu_places: int) -> Pools:
    """The pools for so many blocks of videos, free CPUs on so many hosts, and copies of the networks for which there are GPUs.

    A copy on a GPU reserves no CPU, so that all of them decode. On CPUs, copies reserve one each, unless none would be left to
    decode, and `auto` gives them a quarter of the CPUs: each copy uses `TORCH_THREADS` threads, and a small machine counts as four
    CPUs. Hosts of two or three CPUs get a copy each, which Ray Data spreads over them. No copies are added later on CPUs, since the
    start of one costs as much as the work that it would take over.
    """
    if features.models == "auto" and features.gpus_per_model:
        models, max_models = max(1, gpu_places), blocks
    elif features.models == "auto":
        models = max_models = max(1, cpus // 4, min(hosts, cpus // 2))
    else:
        models = max_models = features.models
    models = min(models, blocks)
    model_cpus = 0 if features.gpus_per_model or cpus <= models else 1
    decoders = max(1, cpus - model_cpus * models)
    max_decoders = blocks if features.decoders == "auto" else min(features.decoders, blocks)
    return Pools((min(decoders, max_decoders), max_decoders), (models, min(max_models, blocks)), model_cpus)
