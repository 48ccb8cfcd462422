"""The stage `search_index`: learns the space in which words, pictures and sounds find videos, and puts the catalog's videos there.

It makes two passes over the part files of `features`. The first takes a sample, from which the space is learned; the second gives
each video its vector, in parts of their own. A large catalog is embedded on the workers. A later run with the same settings, and
features from the same networks, keeps the space and the parts of all files that have not changed, so that new videos cost what is
new (`--force` learns anew).
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec import tables
from rayrec.config import Config, ConfigError, dump
from rayrec.serving.cluster.room import check_training
from rayrec.stages.execution import in_this_process
from rayrec.workspace.files import checksum, from_json, open_filesystem, read_whole, to_json, write_whole, written_whole
from rayrec.workspace.parts import part_paths, read_checked, read_footer
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import torch

    from rayrec.retrieval.inputs import Inputs
    from rayrec.stages.on_ray.training import Processes, Task
    from rayrec.training.exchange import Worker

TABLE = "search_vectors"
MODEL, ORIGIN, CHECKPOINT = "model", "origin.json", "checkpoint.pt"  # in the version's folder
COLUMNS = ["video_id", "title", "tags", "primary_class"]  # of the catalog
LOCAL_VIDEOS = 20_000  # the most that this process embeds alone; it does so in the seconds that a Ray cluster takes to start
BLOCK_VIDEOS = 4096  # in the blocks of videos of which only the title is known
# What the space does not depend on: how many processes learn it, and how it is served.
NOT_LEARNED = {"workers", "gpus_per_worker", "restarts", "replicas", "exact_videos", "max_upload_bytes", "decode_timeout_s"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """The videos of a part file of `features`, or videos that are in none of them."""

    path: str | None
    digest: str  # of the file
    ids: pa.Array | None = None  # of videos without a file
    titles: list[str | None] | None = None  # where their hashed words are read


def make_search_index(run: StageRun) -> None:
    """The work of the stage: writes the model and the table `search_vectors`. Raises `TableError` for vectors of mixed sizes."""
    from rayrec.stages.on_ray.training import await_workers

    catalog = run.read("catalog", COLUMNS)
    folder = f"{run.folder}/{TABLE}"
    run.fs.create_dir(folder, recursive=True)
    origin = to_json(_origin(run))
    if not _keep_model(run, origin):
        await_workers(run.config, _processes(run.config))
        _learn(run)
    run.write_file(ORIGIN, origin)
    if not _has_model(run, run.folder):
        log.warning("search_index: fewer than two videos have any of search.modalities, so there is nothing to search by")
        run.write(TABLE, tables.empty(TABLE))
        run.count(catalog.num_rows, 0)
        return
    rows = _embed(run, catalog, folder)
    run.record_parts(TABLE, rows)
    run.count(catalog.num_rows, rows)


def settings(config: Config) -> dict[str, Any]:
    """What the space and the vectors depend on, beside the features themselves."""
    return {"Search": config.search.model_dump(mode="json", exclude=NOT_LEARNED) if config.search else None}


def _processes(config: Config) -> "Processes":
    from rayrec.stages.on_ray.training import Processes

    assert config.search is not None
    return Processes("search", config.search.workers, config.search.gpus_per_worker, restarts=config.search.restarts)


# --- the space ------------------------------------------------------------------------------------------------------------------


def _origin(run: StageRun) -> dict[str, Any]:
    """What the features come from: a space is of no use for those of other networks."""
    manifest = run.workspace.manifest("extract")
    return {"extract": manifest.settings if manifest else None}


def _has_model(run: StageRun, folder: str) -> bool:
    from rayrec.retrieval.model import RECORD

    return bool(run.fs.get_file_info(f"{folder}/{MODEL}/{RECORD}").is_file)


def _keep_model(run: StageRun, origin: bytes) -> bool:
    """Whether the model need not be learned: a killed run has left it, or that of the previous version is valid, and is copied."""
    from rayrec.retrieval.model import RECORD, WEIGHTS

    if _has_model(run, run.folder):
        return True
    before, folder = run.previous, run.previous_folder
    if before is None or folder is None or before.settings != run.settings or not _has_model(run, folder):
        return False
    if from_json(read_whole(run.fs, f"{folder}/{ORIGIN}")) != from_json(origin):
        return False
    if problem := run.workspace.damage(before, MODEL):
        log.warning("search_index: %s; the space is learned anew", problem)
        return False
    for name in (WEIGHTS, RECORD):  # the record last, since it stands for both
        write_whole(run.fs, f"{run.folder}/{MODEL}/{name}", read_whole(run.fs, f"{folder}/{MODEL}/{name}"))
    log.info("search_index: the space is kept (`--force` learns a new one)")
    return True


def _learn(run: StageRun) -> None:
    from rayrec.stages.on_ray.training import train_and_log
    from rayrec.workspace.checkpoint import Checkpoint

    assert run.config.search is not None
    task, processes = {"config": dump(run.config)}, _processes(run.config)
    train_and_log(run, _work, task, run.folder, "search_index", run.config.search.epochs, processes)
    Checkpoint(run.fs, f"{run.folder}/{CHECKPOINT}").delete()


def _work(task: "Task", worker: "Worker", device: "torch.device") -> None:
    """What each worker does. The first one saves the model."""
    from rayrec.retrieval.fitting import fit
    from rayrec.retrieval.inputs import TEXT
    from rayrec.retrieval.labels import Labels
    from rayrec.retrieval.model import SearchModel, floors_in_words
    from rayrec.retrieval.queries import QueryReader
    from rayrec.stages.on_ray.training import reported
    from rayrec.workspace.checkpoint import Checkpoint

    config, workspace, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]), task["folder"]
    wanted = config.search
    assert wanted is not None
    with reported(task, worker) as callback:
        catalog = workspace.read("catalog", COLUMNS)
        inputs, ids = _sample(workspace, config, catalog)
        if inputs.count < 2 or not inputs.values:
            return
        labels = Labels.of(catalog.take(pc.index_in(ids, value_set=catalog["video_id"].combine_chunks())), wanted.max_tags)
        checkpoint = Checkpoint(workspace.fs, f"{folder}/{CHECKPOINT}")
        space = fit(inputs, labels, wanted, config.seed, device, callback, worker, checkpoint)
    if worker.rank == 0:
        model = SearchModel(space, wanted, config.features, config.seed)
        if TEXT in space.sizes and labels.names:
            texts = QueryReader(config.features, config.seed, wanted.decode_timeout_s).texts(labels.names)
            model.fit_tags(texts, labels, model.video_vectors(inputs))
        model.fit_floors(inputs, labels)
        log.info("search_index: videos count as found above %s (by query)", floors_in_words(model.floors))
        model.save(workspace.fs, f"{folder}/{MODEL}")


def _sample(workspace: Workspace, config: Config, catalog: pa.Table) -> "tuple[Inputs, pa.Array]":
    """The inputs and the ids of the videos that the space is learned from: all of the catalog, or a random share of each block."""
    from rayrec.retrieval.inputs import Inputs

    assert config.search is not None
    share, parts, ids = min(1.0, config.search.learn_videos / max(1, catalog.num_rows)), [], [pa.array([], tables.TEXT)]
    for number, block in enumerate(_blocks(workspace, config, catalog)):
        found, of = _read(workspace.uri, config, block)
        known = pc.is_in(of, value_set=catalog["video_id"].combine_chunks()).to_numpy(zero_copy_only=False)
        drawn = np.random.default_rng((config.seed, number)).random(len(of)) < share
        rows = np.flatnonzero(known & drawn & np.any([found.present[name] for name in found.present] or [known & False], axis=0))
        parts.append(found.take(rows))
        ids.append(of.take(pa.array(rows)))
    return Inputs.joined(parts), pa.concat_arrays(ids)


# --- blocks of videos -----------------------------------------------------------------------------------------------------------


def _blocks(workspace: Workspace, config: Config, catalog: pa.Table) -> Iterator[Block]:
    """The videos in blocks: those of each part file, and, where hashed words are read, those that are in none, by their titles."""
    from rayrec.retrieval.inputs import TEXT
    from rayrec.retrieval.model import title_rows

    assert config.search is not None
    hashes = config.features.text is None and TEXT in config.search.modalities
    alone = np.full(catalog.num_rows, hashes)
    for path, digest in workspace.part_digests("features").items():
        titles = None
        if hashes:
            ids = pq.read_table(path, filesystem=workspace.fs, columns=["video_id"])["video_id"].cast(tables.TEXT)
            titles = title_rows(catalog, ids)
            alone &= ~pc.is_in(catalog["video_id"], value_set=ids.combine_chunks()).to_numpy()
        yield Block(path, digest, None, titles)
    rest = catalog.filter(pa.array(alone))
    for start in range(0, rest.num_rows, BLOCK_VIDEOS):
        some = rest.slice(start, BLOCK_VIDEOS)
        yield Block(None, "", some["video_id"].combine_chunks(), some["title"].to_pylist())


def _read(uri: str, config: Config, block: Block) -> "tuple[Inputs, pa.Array]":
    """The inputs and the ids of a block's videos. Raises `WorkspaceError` for a file that is damaged."""
    from rayrec.retrieval.inputs import inputs_of

    assert config.search is not None
    names = list(config.search.modalities)
    if block.path is None:
        rows = pa.table({"video_id": block.ids})
    else:
        rows = read_checked(open_filesystem(uri)[0], block.path, block.digest, "features", ["video_id", *names])
    return inputs_of(rows, names, block.titles), rows["video_id"].combine_chunks()


def _embed(run: StageRun, catalog: pa.Table, folder: str) -> int:
    """Write or share a part of the table for each block. Returns the number of rows of all."""
    blocks = list(_blocks(run.workspace, run.config, catalog))
    model = checksum(run.fs, f"{run.folder}/{MODEL}/space.safetensors")
    there = {path.rsplit("/", 1)[1] for path in part_paths(run.fs, folder)}
    before, pending, rows = run.previous_parts(TABLE), list[tuple[Block, str]](), 0
    for block in blocks:
        name = _name(model, block)
        if f"{TABLE}/{name}" in before:
            run.share(f"{TABLE}/{name}")
            rows += read_footer(run.fs, before[f"{TABLE}/{name}"], TABLE).num_rows
        elif name in there:  # a killed run has written it
            rows += read_footer(run.fs, f"{folder}/{name}", TABLE).num_rows
        else:
            pending.append((block, f"{folder}/{name}"))
    log.info("search_index: %d of %d parts are new or changed", len(pending), len(blocks))
    work = [partial(_write, run.workspace.uri, run.config, block, f"{run.folder}/{MODEL}", path) for block, path in pending]
    return rows + sum(written for _, written in _execute(run, work))


def _execute(run: StageRun, work: Sequence[Any]) -> Iterator[tuple[int, int]]:
    if len(work) <= 1 or run.workspace.rows("catalog") <= LOCAL_VIDEOS:
        return in_this_process(work)
    from rayrec.stages.on_ray.working import on_workers

    return on_workers(run.config)(work)


def _write(uri: str, config: Config, block: Block, model_folder: str, path: str) -> int:
    """Embed the videos of a block and write those that have a vector as a part file. Returns their number."""
    from rayrec.retrieval.model import SearchModel

    fs, _ = open_filesystem(uri)
    inputs, ids = _read(uri, config, block)
    vectors = SearchModel.load(fs, model_folder).video_vectors(inputs)
    some = np.flatnonzero(vectors.any(axis=1))
    rows = tables.validate(
        TABLE, pa.table({"video_id": ids.take(pa.array(some)), "vector": pa.array(list(vectors[some]), tables.VECTOR)})
    )
    with written_whole(fs, path) as place:
        pq.write_table(rows, place, filesystem=fs, compression="zstd")
    return len(some)


def _name(model: str, block: Block) -> str:
    """The name of the part of a block: another model, file or title gives another one, so that a name stands for its contents."""
    facts = [model, block.digest, block.ids.to_pylist() if block.ids is not None else None, block.titles]
    return f"part-{hashlib.sha256(to_json(facts)).hexdigest()[:24]}.parquet"


def check(config: Config) -> None:
    """Raises `ConfigError` if the config lacks the section, and for more workers or GPUs than there are."""
    if config.search is None:
        raise ConfigError("search: the config has no such section; add `search: {}` to make an index for POST /v1/search")
    check_training("search", config.search.workers, config.search.gpus_per_worker)


STAGE = Stage(
    "search_index",
    make_search_index,
    reads=("catalog", "features"),
    writes=(TABLE,),
    settings=settings,
    check=check,
    shares=True,
)
