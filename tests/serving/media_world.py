"""A published workspace whose videos are real files: 16 clips on 4 topics, with features, vectors and topics, made without Ray."""

from pathlib import Path

import pyarrow as pa

from rayrec.config import Config, ImageFeatures, Maps, load
from rayrec.datasets.synthetic.media import encode
from rayrec.datasets.synthetic.scenes import Scene
from rayrec.features.media.isolation import IsolatedDecoder
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from rayrec.stages import extract
from rayrec.stages.pipeline import load_stage
from rayrec.workspace.stage import Stage, StageRun, run_stage
from rayrec.workspace.versions import Workspace
from tests.fixtures.media import SMALL
from tests.serving.small_world import LOG_STARTS, TRAIN, WORDS, interactions, topic_of, video, write_tables

CLIPS = 16
IMAGE = ImageFeatures(model="resnet18", weights="none", frames=2, size=32, maps=Maps(channels=2, grid=3))
FEATURES = SMALL.model_copy(update={"motion": None, "image": IMAGE})


def clip(number: int, side: int = 64) -> bytes:
    """An mp4 of two seconds, whose picture and sound are those of the number's topic."""
    topic = topic_of(number)
    return encode(Scene(f"clip {number}", topic, "red", "kitchen", topic, "slow", frames=24, fps=12, side=side, seed=(number,)))


def catalog(media: Path) -> pa.Table:
    count = range(CLIPS)
    for number in count:
        (media / f"{number}.mp4").write_bytes(clip(number))
    return pa.table(
        {
            "video_id": [video(n) for n in count],
            "uri": [str(media / f"{n}.mp4") for n in count],
            "title": [f"Clip {n} of {WORDS[topic_of(n)][0]}s" for n in count],
            "tags": [WORDS[topic_of(n)] for n in count],
            "author_id": [f"a{n % 3}" for n in count],
            "published_at": pa.array([LOG_STARTS] * CLIPS, pa.int64()),
        }
    )


def _extract(run: StageRun) -> None:
    """The work of `extract` in this process."""
    networks = load_networks(run.config.features, run.config.seed)
    features, media = resolved(run.config.features, networks), extract._media(run)
    decoder = IsolatedDecoder(decode_rows, features, timeout_s=60)
    rows = [network_rows(decoder(media.slice(row, 1)), features, networks) for row in range(media.num_rows)]
    decoder.close()
    run.write("features", pa.concat_tables(rows))
    run.count(media.num_rows, media.num_rows)


EXTRACT = Stage("extract", _extract, reads=("catalog",), writes=("features",), settings=extract.settings)


def build_media_world(folder: Path, *settings: str) -> Config:
    """Run the stages that lead to a bundle, in the workspace `folder`."""
    media = folder / "media"
    media.mkdir(parents=True)
    values = ["recall.min_exposures=3", "topics.clusters=4", "topics.epochs=3", "topics.modalities=[image, audio]"]
    values += ["features.image.maps={}", "ranker.user_kernels=true"]
    values += ["ranker.modalities=[image, audio]", "reduction.sizes={image: 6}", f"serving.uploads.media_roots=[{media}]"]
    config = load(None, [f"workspace={folder}", *values, *settings]).model_copy(update={"features": FEATURES})
    ingest = write_tables({"catalog": catalog(media), "interactions": interactions()})
    for stage in (ingest, EXTRACT, load_stage("reduce"), load_stage("topics"), TRAIN, load_stage("publish")):
        run_stage(Workspace(folder), stage, config)
    return config
