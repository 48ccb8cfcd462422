"""The stage `topics`: learns the topics of the catalog's videos.

    cover, title --MMoE--> z --+
                               +--> a = concat(L2(z), L2(e)) --K-means--> centres --threshold--> topics of each video
    tags --graph, skip-gram--> e --+

Parts that a catalog lacks are left out: without covers z comes from the titles alone, without covers and titles `a` comes from the
tags alone, and a catalog that has none of them gets no topics at all (recall then uses popular and fresh videos). `learn_topics`
trains; `assign_topics` uses the trained model to give topics to the videos of a catalog that has grown.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec import tables
from rayrec.config import Config, dump, need_package
from rayrec.features.media.files import file_versions
from rayrec.features.origins import topic_networks_in_words
from rayrec.serving.cluster.room import check_training
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace, WorkspaceError

if TYPE_CHECKING:
    import torch

    from rayrec.stages.on_ray.training import Processes, Task
    from rayrec.topics.blocks import Block
    from rayrec.topics.clustering import BlockMap
    from rayrec.topics.model import TopicModel
    from rayrec.topics.representation import Representation
    from rayrec.training.exchange import Worker

Pictures = tuple[pa.Table | None, pa.Table | None]  # vectors and features, of which the encoders read one at most

TYPICAL_TAGS = 5  # kept for each topic
CHECKPOINT = "checkpoint.pt"

log = logging.getLogger(__name__)


def learn_topics(run: StageRun) -> None:
    """The work of the stage: trains a model; writes it, `topics`, `topic_centres`, `tag_vectors` and `embeddings`."""
    from rayrec.stages.on_ray.training import await_workers
    from rayrec.topics import tag_graph
    from rayrec.topics.blocks import COLUMNS
    from rayrec.topics.model import TopicModel

    catalog, settings = run.read("catalog", COLUMNS), run.config.topics
    log.info("topics: %s", run.settings["networks"])
    await_workers(run.config, _processes(run.config))
    videos_tags, names = tag_graph.incidence(catalog["tags"], settings.max_tags, settings.min_tag_videos)
    vectors = tag_graph.tag_vectors(videos_tags, names, settings, run.config.seed) if names else np.empty((0, settings.tag_size))
    model = TopicModel(_train(run), names, vectors.astype(np.float32))
    model, map_blocks = _embedded(run, model, catalog, fit=True)
    if not any(map_blocks(len)):
        log.warning("topics: no video has a cover, a title or tags, so there are no topics")
    else:
        model.centres = _numbered(run.workspace, catalog, _cluster(map_blocks, run.config), map_blocks)
    _write(run, model, catalog, map_blocks)


def assign_topics(run: StageRun) -> None:
    """The work of `rayrec topics assign`: writes the same tables for the present catalog with the present model.

    Raises `WorkspaceError` when there is no model yet.
    """
    from rayrec.topics.blocks import COLUMNS
    from rayrec.topics.model import TopicModel

    model = TopicModel.load(run.fs, run.workspace.check("topics"), run.workspace.read)
    catalog = run.read("catalog", COLUMNS)
    model, map_blocks = _embedded(run, model, catalog, fit=False)
    _write(run, model, catalog, map_blocks)


def settings(config: Config) -> dict[str, Any]:
    """What topics depend on. The number of processes that train them changes nothing but rounding."""
    section = config.topics.model_dump(mode="json", exclude={"workers", "gpus_per_worker", "clustering", "restarts"})
    return {"Topics": section, "networks": topic_networks_in_words(config.topics)}


def sources(workspace: Workspace, config: Config) -> list[tuple[str, str]]:
    """The version of the file of the cover network's weights. Another file redoes the stage."""
    network = config.topics.cover_network
    if network is None or network.weights in ("DEFAULT", "none"):
        return []
    return list(file_versions([network.weights]).items())


def _pictures(workspace: Workspace, config: Config) -> Pictures:
    """What the encoders of pictures may read: the covers (video_id, cover_jpeg) if they are read as pixels, else the vectors."""
    if config.topics.cover_network is not None:
        covers = workspace.read_if_there("features", ["video_id", "cover_jpeg"])
        if covers is not None and covers["cover_jpeg"].null_count < covers.num_rows:
            return None, covers
    return workspace.read_if_there("vectors", ["video_id", *config.topics.modalities]), None


def _processes(config: Config) -> "Processes":
    from rayrec.stages.on_ray.training import Processes

    return Processes("topics", config.topics.workers, config.topics.gpus_per_worker, restarts=config.topics.restarts)


# --- z --------------------------------------------------------------------------------------------------------------------------


def _train(run: StageRun) -> "Representation | None":
    """The trained representation; None when the catalog has neither covers nor titles."""
    from rayrec.stages.on_ray.training import train_and_log
    from rayrec.topics.model import ENCODERS
    from rayrec.topics.representation import Representation
    from rayrec.workspace.checkpoint import Checkpoint

    config = run.config
    train_and_log(run, _work, {"config": dump(config)}, run.folder, "topics", config.topics.epochs, _processes(config))
    Checkpoint(run.fs, f"{run.folder}/{CHECKPOINT}").delete()
    try:
        return Representation.load(run.fs, f"{run.folder}/{ENCODERS}")
    except FileNotFoundError:
        return None


def _work(task: "Task", worker: "Worker", device: "torch.device") -> None:
    """What each worker does. The first one saves the encoders."""
    from rayrec.stages.on_ray.training import reported
    from rayrec.topics.blocks import COLUMNS
    from rayrec.topics.fitting import train_representation
    from rayrec.topics.model import ENCODERS
    from rayrec.topics.representation import NothingToReadError
    from rayrec.workspace.checkpoint import Checkpoint

    config, workspace, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]), task["folder"]
    try:
        with reported(task, worker) as callback:
            trained = train_representation(
                workspace.read("catalog", COLUMNS),
                *_pictures(workspace, config),
                config.topics,
                config.seed,
                device,
                callback,
                worker,
                Checkpoint(workspace.fs, f"{folder}/{CHECKPOINT}"),
            )
    except NothingToReadError:
        return
    if worker.rank == 0:
        trained.save(workspace.fs, f"{folder}/{ENCODERS}")


# --- topics ---------------------------------------------------------------------------------------------------------------------


def _embedded(run: StageRun, model: "TopicModel", catalog: pa.Table, fit: bool) -> "tuple[TopicModel, BlockMap]":
    """The model, fitted to the videos of the catalog if asked for, and a `map_blocks` over their blocks.

    With `clustering: ray` the workers make and keep them. Else there is one block, which is made where training runs: on a reserved
    GPU if `topics.gpus_per_worker` says so, and in this process otherwise.
    """
    if run.config.topics.clustering == "ray":
        from rayrec.stages.on_ray.topic_blocks import embedded

        return model, embedded(run, model, catalog, fit)
    from rayrec.stages.on_ray.training import with_gpus

    pictures = _pictures(run.workspace, run.config)
    model, block = with_gpus(run.config, run.config.topics.gpus_per_worker, _one_block)(model, catalog, pictures, fit)
    return model, lambda work, *arguments: [work(block, *arguments)]


def _one_block(model: "TopicModel", catalog: pa.Table, pictures: Pictures, fit: bool) -> "tuple[TopicModel, Block]":
    from rayrec.serving.cluster.connection import reserved_device
    from rayrec.topics.blocks import block_of, encode

    encoded = encode(model, catalog, *pictures, reserved_device())
    if fit:
        model.fit(lambda work, *arguments: [work(encoded.known, *arguments)])
    return model, block_of(encoded, 0, model)


def _cluster(map_blocks: "BlockMap", config: Config) -> np.ndarray:
    """The centres, L2-normalised [topics, size]: those of a single block are computed in threads."""
    from rayrec.topics.blocks import on_vectors, vectors_of
    from rayrec.topics.clustering import MAX_ITERATIONS, in_threads, k_means, without_twins

    settings = config.topics

    def centres(on_blocks: "BlockMap") -> np.ndarray:
        found = k_means(on_blocks, settings.clusters, config.seed, MAX_ITERATIONS)
        kept = without_twins(on_blocks, found, settings.twins)
        if len(kept) < len(found):
            log.info(
                "topics: %d of %d clusters were twins of others (`topics.twins`) and joined them",
                len(found) - len(kept),
                len(found),
            )
        return kept

    if settings.clustering == "ray":
        return centres(on_vectors(map_blocks))
    (vectors,) = map_blocks(vectors_of)
    with in_threads(vectors) as on_blocks:
        return centres(on_blocks)


def _numbered(workspace: Workspace, catalog: pa.Table, centres: np.ndarray, map_blocks: "BlockMap") -> np.ndarray:
    """The centres in the order of their ids. Topics of the current version that are found again keep their ids."""
    from rayrec.topics.blocks import carried
    from rayrec.topics.matching import carried_centres, match

    if not workspace.has("topics"):
        return centres
    try:
        old, count = workspace.read("topics", ["video_id", "topics"]), workspace.read("topic_centres", ["topic"]).num_rows
    except WorkspaceError as error:  # what is made again for this very reason must not fail for it
        log.warning("topics: the version before can't be read, so all topics get new ids: %s", error)
        return centres
    old = old.filter(pc.is_in(old["video_id"], value_set=catalog["video_id"].combine_chunks()))
    if not old.num_rows:
        return centres
    order, kept = match(centres, carried_centres(map_blocks(carried, old, count)))
    log.info("topics: %d of %d topics keep their ids from the version before", kept, count)
    return centres[order]


def _write(run: StageRun, model: "TopicModel", catalog: pa.Table, map_blocks: "BlockMap") -> None:
    """Write every table of the stage. A video of which nothing is known belongs to no topic."""
    from rayrec.topics.blocks import write_topics
    from rayrec.topics.words import typical

    settings, in_parts = run.config.topics, ("embeddings", "topics")
    for name in in_parts:
        run.fs.create_dir(f"{run.folder}/{name}", recursive=True)
        run.fs.delete_dir_contents(f"{run.folder}/{name}")  # what a killed run left
    blocks = list(map_blocks(write_topics, model.centres, settings, run.workspace.uri, run.folder))
    videos, alone = (sum(counts) for counts in ([block.videos for block in blocks], [block.alone for block in blocks]))
    if alone:
        sentence = "topics: %d of %d videos are not close enough to any topic (`topics.threshold`); each gets the nearest one"
        log.info(sentence, alone, videos)
    for name in in_parts:
        run.record_parts(name, videos)
    run.write(
        "topic_centres",
        pa.table(
            {
                "topic": np.arange(len(model.centres)),
                "centre": pa.array(list(model.centres), tables.VECTOR),
                "videos": sum((block.videos_of for block in blocks), np.zeros(len(model.centres), dtype=np.int64)),
                "tags": pa.array(
                    typical(sum(block.tags_of for block in blocks), model.tags, TYPICAL_TAGS) if blocks else [],
                    pa.list_(tables.TEXT),
                ),
            }
        ),
    )
    counts = np.asarray(model.tags_of(catalog).sum(axis=0)).ravel().astype(np.int64)
    vectors = pa.array(list(model.tag_vectors), tables.VECTOR)
    run.write("tag_vectors", pa.table({"tag": pa.array(model.tags, tables.TEXT), "vector": vectors, "videos": counts}))
    model.save(run.fs, run.folder)
    run.count(rows_in=catalog.num_rows, rows_out=videos)


def check(config: Config) -> None:
    """Raises `ConfigError` for a missing package, and for more workers or GPUs than there are."""
    topics = config.topics
    if topics.title_encoder not in ("bag", "transformer"):
        need_package("transformers", "text", f"topics.title_encoder={topics.title_encoder}")
    check_training("topics", topics.workers, topics.gpus_per_worker)


STAGE = Stage(
    "topics",
    learn_topics,
    reads=("catalog",),
    may_read=("vectors", "features"),
    writes=("topics", "topic_centres", "tag_vectors", "embeddings"),
    settings=settings,
    sources=sources,
    check=check,
)
# `rayrec topics assign`: writes the same tables without training.
ASSIGN = replace(STAGE, work=assign_topics, check=lambda config: None)
