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
from rayrec.config import Config, dump
from rayrec.workspace.files import file_facts, open_filesystem
from rayrec.workspace.stage import Stage, StageRun
from rayrec.workspace.versions import Workspace

if TYPE_CHECKING:
    import torch

    from rayrec.stages.on_ray.training import Task
    from rayrec.topics.model import TopicModel
    from rayrec.topics.representation import Representation
    from rayrec.training.exchange import Worker

TYPICAL_TAGS = 5  # kept for each topic
CHECKPOINT = "checkpoint.pt"

log = logging.getLogger(__name__)


def learn_topics(run: StageRun) -> None:
    """The work of the stage: trains a model; writes it, `topics`, `topic_centres`, `tag_vectors` and `embeddings`."""
    from rayrec.topics import tag_graph
    from rayrec.topics.model import TopicModel

    catalog, settings = run.read("catalog"), run.config.topics
    videos_tags, names = tag_graph.incidence(catalog["tags"], settings.max_tags, settings.min_tag_videos)
    vectors = tag_graph.tag_vectors(videos_tags, names, settings, run.config.seed) if names else np.empty((0, settings.tag_size))
    model = TopicModel(_train(run), names, vectors.astype(np.float32))
    joint, described = model.fit_join(*_read(run))
    if not described.any():
        log.warning("topics: no video has a cover, a title or tags, so there are no topics")
    else:
        model.centres = _numbered(run.workspace, catalog, _cluster(joint[described], run.config), joint)
    _write(run, model, catalog, joint, described)


def assign_topics(run: StageRun) -> None:
    """The work of `rayrec topics assign`: writes the same tables for the present catalog with the present model.

    Raises `WorkspaceError` when there is no model yet.
    """
    from rayrec.topics.model import TopicModel

    model = TopicModel.load(run.fs, run.workspace.folder("topics"), run.workspace.read)
    joint, described = model.join(*_read(run))
    _write(run, model, run.read("catalog"), joint, described)


def _read(run: StageRun) -> tuple[pa.Table, pa.Table | None, pa.Table | None]:
    return run.read("catalog"), run.read_if_there("vectors"), _features(run.workspace, run.config)


def settings(config: Config) -> dict[str, Any]:
    """What topics depend on. The number of processes that train them changes nothing but rounding."""
    return {"Topics": config.topics.model_dump(mode="json", exclude={"workers", "gpus_per_worker", "clustering"})}


def sources(workspace: Workspace, config: Config) -> list[tuple[str, int, int]]:
    """Facts about the file of the cover network's weights. Another file redoes the stage."""
    network = config.topics.cover_network
    if network is None or network.weights in ("DEFAULT", "none"):
        return []
    filesystem, path = open_filesystem(network.weights)
    return file_facts(filesystem, [path])


def _features(workspace: Workspace, config: Config) -> pa.Table | None:
    """The features, if covers are read as pixels."""
    return workspace.read_if_there("features") if config.topics.cover_network is not None else None


# --- z --------------------------------------------------------------------------------------------------------------------------


def _train(run: StageRun) -> "Representation | None":
    """The trained representation; None when the catalog has neither covers nor titles."""
    from rayrec.stages.on_ray.training import Processes, train_and_log
    from rayrec.topics.model import ENCODERS
    from rayrec.topics.representation import Representation
    from rayrec.workspace.checkpoint import Checkpoint

    settings = run.config.topics
    processes = Processes("topics", settings.workers, settings.gpus_per_worker)
    train_and_log(run, _work, {"config": dump(run.config)}, run.folder, "topics", settings.epochs, processes)
    Checkpoint(run.fs, f"{run.folder}/{CHECKPOINT}").delete()
    try:
        return Representation.load(run.fs, f"{run.folder}/{ENCODERS}")
    except FileNotFoundError:
        return None


def _work(task: "Task", worker: "Worker", device: "torch.device") -> None:
    """What each worker does. The first one saves the encoders."""
    from rayrec.stages.on_ray.training import progress_callback
    from rayrec.topics.fitting import train_representation
    from rayrec.topics.model import ENCODERS
    from rayrec.topics.representation import NothingToReadError
    from rayrec.workspace.checkpoint import Checkpoint

    config, workspace, folder = Config.model_validate(task["config"]), Workspace(task["workspace"]), task["folder"]
    try:
        trained = train_representation(
            workspace.read("catalog"),
            workspace.read_if_there("vectors"),
            _features(workspace, config),
            config.topics,
            config.seed,
            device,
            progress_callback(task, worker),
            worker,
            Checkpoint(workspace.fs, f"{folder}/{CHECKPOINT}"),
        )
    except NothingToReadError:
        return
    if worker.rank == 0:
        trained.save(workspace.fs, f"{folder}/{ENCODERS}")


# --- topics ---------------------------------------------------------------------------------------------------------------------


def _cluster(joint: np.ndarray, config: Config) -> np.ndarray:
    """The centres, L2-normalised [topics, size]; `clustering: ray` computes them on the cluster."""
    settings = config.topics
    if settings.clustering == "local":
        from rayrec.topics.clustering import cluster

        return cluster(joint, settings.clusters, config.seed)
    from rayrec.serving.cluster.connection import connect
    from rayrec.stages.on_ray.clustering import cluster_matrix

    connect(config)
    return cluster_matrix(joint, settings.clusters, config.seed)


def _numbered(workspace: Workspace, catalog: pa.Table, centres: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """The centres in the order of their ids. Topics of the current version that are found again keep their ids."""
    from rayrec.topics.matching import carried_centres, match
    from rayrec.topics.words import membership

    old = workspace.read("topics") if workspace.has("topics") else tables.empty("topics")
    rows = pc.index_in(old["video_id"], value_set=catalog["video_id"].combine_chunks())
    old = old.filter(rows.is_valid())
    if not old.num_rows:
        return centres
    count = workspace.read("topic_centres").num_rows
    carried = carried_centres(membership(old["topics"].to_numpy(), count), joint[rows.drop_null().to_numpy()])
    order, kept = match(centres, carried)
    log.info("topics: %d of %d topics keep their ids from the version before", kept, count)
    return centres[order]


def _write(run: StageRun, model: "TopicModel", catalog: pa.Table, joint: np.ndarray, described: np.ndarray) -> None:
    """Write every table of the stage. A video of which nothing is known belongs to no topic."""
    from rayrec.topics.clustering import assign
    from rayrec.topics.words import membership, typical

    settings = run.config.topics
    joint, ids = joint[described], catalog["video_id"].filter(pa.array(described))
    if len(joint):
        topics, similarities = assign(joint, model.centres, settings.threshold, settings.max_topics)
    else:
        topics, similarities = [], []
    alone = sum(found[0] < settings.threshold for found in similarities)
    log.info("topics: %d of %d videos are near no centre and get the nearest topic", alone, len(topics))
    run.write("embeddings", pa.table({"video_id": ids, "vector": pa.array(list(joint), tables.VECTOR)}))
    run.write(
        "topics",
        pa.table({"video_id": ids, "topics": pa.array(topics, tables.IDS), "similarity": pa.array(similarities, tables.VECTOR)}),
    )
    members = membership(topics, len(model.centres))
    videos_tags = model.tags_of(catalog)
    run.write(
        "topic_centres",
        pa.table(
            {
                "topic": np.arange(len(model.centres)),
                "centre": pa.array(list(model.centres), tables.VECTOR),
                "videos": np.diff(members.indptr),
                "tags": pa.array(typical(members, videos_tags[described], model.tags, TYPICAL_TAGS), pa.list_(pa.string())),
            }
        ),
    )
    counts = np.asarray(videos_tags.sum(axis=0)).ravel().astype(np.int64)
    vectors = pa.array(list(model.tag_vectors), tables.VECTOR)
    run.write("tag_vectors", pa.table({"tag": pa.array(model.tags, pa.string()), "vector": vectors, "videos": counts}))
    model.save(run.fs, run.folder)
    run.count(rows_in=catalog.num_rows, rows_out=run.written["topics"])


STAGE = Stage(
    "topics",
    learn_topics,
    reads=("catalog",),
    may_read=("vectors", "features"),
    writes=("topics", "topic_centres", "tag_vectors", "embeddings"),
    settings=settings,
    sources=sources,
)
# `rayrec topics assign`: writes the same tables without training.
ASSIGN = replace(STAGE, work=assign_topics)
