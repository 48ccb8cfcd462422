"""The stage `reduce`: the extracted vectors, normalised and reduced by PCA, as the table `vectors`.

Two passes over the part files of `features`, both on Ray Data with one task for each share of the files: the first takes the
moments of the videos that training saw, which are merged and fitted here (`reduction.py`); the second maps all videos and writes
parts. A later run with the same settings keeps the fit of every modality whose raw vectors still come from the same networks, so
that what was trained on reduced vectors can read those of new videos.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce as fold
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data

from rayrec import tables
from rayrec.config import Config, settings_of
from rayrec.data.split import split_times
from rayrec.features.reduction import Moments, Reduction, matrix, merged, moments_of, pack, reduced, unpack
from rayrec.stages.on_ray.cluster import connect
from rayrec.stages.on_ray.data import quiet_context
from rayrec.tables import MODALITIES
from rayrec.workspace.parts import part_paths
from rayrec.workspace.stage import Stage, StageRun

ARRAYS, FACTS = "reduction.safetensors", "reduction.json"
CHUNK_VIDEOS = 4096  # in memory at once in each task; also the most that a part of `vectors` holds
SHARE_FILES = 32  # of `features` that are worth a task of their own
TASKS_PER_CPU = 2  # at the most

log = logging.getLogger(__name__)


def reduce(run: StageRun) -> None:
    """Fit what is not kept from the previous version, then map every video. Raises `ValueError` for vectors of mixed sizes."""
    folder = f"{run.folder}/vectors"
    run.fs.create_dir(folder, recursive=True)
    run.fs.delete_dir_contents(folder)  # of a run that was killed
    features = part_paths(run.fs, f"{run.input_folder('extract')}/features")
    if features:
        connect(run.config)
    private_public = run.read_if_there("private_public") if features and run.config.private_public else None
    reader = Reader(run.fs, _shared(private_public))
    origins = _origins(run)
    reductions = _kept(run, origins, reader.sizes(features[:1]))
    if reductions:
        log.info("reduce: the fit of %s is kept (`--force` makes a new one)", ", ".join(reductions))
    reductions |= _fitted(run, features, reader, [name for name in MODALITIES if name not in reductions])
    _over(features, _write_vectors, reader, pack(reductions), folder)
    facts = {name: _facts(fit) | {"origin": origins[name]} for name, fit in reductions.items()}
    run.write_file(ARRAYS, pack(reductions))
    run.write_file(FACTS, json.dumps({"settings": run.settings, "modalities": facts}, indent=1).encode())
    rows = run.written_in_parts("vectors")
    run.count(rows_in=rows, rows_out=rows)


def settings(config: Config) -> dict[str, Any]:
    return settings_of(config.reduction, config.split) | {"private_public": config.private_public is not None}


# --- fitting --------------------------------------------------------------------------------------------------------------------


def _fitted(run: StageRun, features: list[str], reader: "Reader", names: list[str]) -> dict[str, Reduction]:
    """The reductions of those of the modalities that the training catalog holds."""
    if not features:
        return {}
    packed = _over(features, _moments, reader, names, _shared(_trained(run)))
    moments: dict[str, Moments] = fold(merged, (unpack(Moments, value.as_py()) for value in packed), {})
    sizes = {str(name): size for name, size in run.config.reduction.sizes.items()}
    normalise = run.config.reduction.normalise
    reductions = {name: Reduction.fit(moments[name], normalise, sizes.get(name)) for name in names if name in moments}
    for name, fit in reductions.items():
        kept = "" if fit.explained is None else f", {fit.explained.sum():.1%} of the variance"
        log.info("reduce: %s %d -> %d numbers%s (fitted on %d videos)", name, fit.raw_size, fit.size, kept, fit.count)
    empty = [name for name, fit in reductions.items() if not fit.size]
    if empty:
        log.warning("reduce: all vectors of %s are the same: left out", ", ".join(empty))
    return {name: fit for name, fit in reductions.items() if fit.size}


def _trained(run: StageRun) -> pa.Array | None:
    """The ids that the training split of the log shows; None, for all, where there is no such log."""
    interactions = run.read_if_there("interactions")
    if interactions is None or not interactions.num_rows:
        return None
    validation_at, _ = split_times(interactions["shown_at"].to_numpy(), run.config.split)
    shown = interactions["video_id"].filter(pc.less(interactions["shown_at"], validation_at))
    return pc.unique(shown) if len(shown) else None


def _origins(run: StageRun) -> dict[str, Any]:
    """What the raw vectors of each modality come from: a fit is no good for those of another network."""
    origins: dict[str, Any] = dict.fromkeys(MODALITIES)
    for stage, names in (("extract", MODALITIES[:-1]), ("private_public", MODALITIES[-1:])):
        manifest = run.workspace.manifest(stage)
        if manifest is not None:
            trained = _digest(run.fs, f"{run.workspace.root}/{stage}/{manifest.version}/network.safetensors")
            origins |= {name: {"settings": manifest.settings, "network": trained} for name in names}
    return origins


def _digest(fs: pafs.FileSystem, path: str) -> str | None:
    """Of a file's bytes; None when there is none."""
    if not fs.get_file_info(path).is_file:
        return None
    with fs.open_input_file(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _kept(run: StageRun, origins: dict[str, Any], raw_sizes: dict[str, int]) -> dict[str, Reduction]:
    """The reductions of the previous version that go for this one too."""
    if run.previous is None or run.previous.settings != run.settings:
        return {}
    with run.fs.open_input_file(f"{run.previous_folder}/{FACTS}") as file:
        facts = json.loads(file.read())["modalities"]
    with run.fs.open_input_file(f"{run.previous_folder}/{ARRAYS}") as file:
        reductions = unpack(Reduction, file.read())
    return {
        name: fit
        for name, fit in reductions.items()
        if facts[name]["origin"] == origins[name] and raw_sizes.get(name, fit.raw_size) == fit.raw_size
    }


def _facts(fit: Reduction) -> dict[str, Any]:
    explained = None if fit.explained is None else [round(share, 6) for share in fit.explained.tolist()]
    return {"raw_size": fit.raw_size, "size": fit.size, "explained_variance": explained, "fitted_on": fit.count}


# --- the passes -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Reads the raw vectors of a list of part files, in the shape of `vectors`; goes with the tasks to where they run."""

    fs: pafs.FileSystem
    private_public: "ray.ObjectRef[pa.Table] | None"  # a table of its own, joined by id

    def chunks(self, paths: list[str], names: list[str]) -> Iterator[pa.Table]:
        """Tables of at most about `CHUNK_VIDEOS` rows with the named modalities, the others null."""
        waiting: list[pa.Table] = []
        for path in paths:
            waiting.append(self._part(path, names))
            if sum(part.num_rows for part in waiting) >= CHUNK_VIDEOS:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """How many numbers the vectors of each modality hold that these files have."""
        return {
            name: matrix(chunk[name], name).shape[1]
            for chunk in self.chunks(paths, list(MODALITIES))
            for name in MODALITIES
            if chunk[name].null_count < chunk.num_rows
        }

    def _part(self, path: str, names: list[str]) -> pa.Table:
        there = pq.read_schema(path, filesystem=self.fs).names
        part = pq.read_table(path, filesystem=self.fs, columns=["video_id", *(name for name in names if name in there)])
        if "private_public" in names and self.private_public is not None:
            other = ray.get(self.private_public)
            rows = pc.index_in(part["video_id"], value_set=other["video_id"])
            part = part.append_column("private_public", other["vector"].take(rows))
        return tables.conform("vectors", part)


def _over(features: list[str], task: Callable[..., pa.Table], *arguments: Any) -> pa.ChunkedArray:
    """The one column that `task(share, *arguments)` returns, of all shares of the part files."""
    most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1))) if features else 1
    size = max(SHARE_FILES, math.ceil(len(features) / most))
    shares = [
        pa.table({"path": paths, "share": [number] * len(paths)})
        for number, paths in enumerate(features[start : start + size] for start in range(0, len(features), size))
    ]
    if not shares:
        return pa.chunked_array([], pa.large_binary())
    with ray.data.DataContext.current(quiet_context()):
        done = ray.data.from_arrow(shares).map_batches(task, batch_size=None, batch_format="pyarrow", fn_args=arguments)
        return pa.concat_tables(ray.get(done.to_arrow_refs())).column(0)


def _moments(share: pa.Table, reader: Reader, names: list[str], trained: "ray.ObjectRef[pa.Array] | None") -> pa.Table:
    found: dict[str, Moments] = {}
    for chunk in reader.chunks(share["path"].to_pylist(), names):
        rows = chunk if trained is None else chunk.filter(pc.is_in(chunk["video_id"], value_set=ray.get(trained)))
        found = merged(found, moments_of(rows, names))
    return pa.table({"moments": pa.array([pack(found)], pa.large_binary())})


def _write_vectors(share: pa.Table, reader: Reader, packed: bytes, folder: str) -> pa.Table:
    reductions = unpack(Reduction, packed)
    for number, chunk in enumerate(reader.chunks(share["path"].to_pylist(), list(reductions))):
        columns = {name: reduced(chunk[name], fit, name) for name, fit in reductions.items()}
        part = tables.conform("vectors", pa.table({"video_id": chunk["video_id"]} | columns))
        path = f"{folder}/part-{share['share'][0].as_py():06d}-{number:06d}.parquet"
        pq.write_table(part, path, filesystem=reader.fs, compression="zstd")
    return pa.table({"done": pa.array([b""], pa.large_binary())})


def _shared(value: pa.Table | pa.Array | None) -> "ray.ObjectRef[Any] | None":
    """Once in Ray's shared memory, for all tasks."""
    return None if value is None else ray.put(value)


STAGE = Stage(
    "reduce",
    reduce,
    reads=("features",),
    may_read=("interactions", "private_public"),
    after=("extract",),
    writes=("vectors",),
    settings=settings,
)
