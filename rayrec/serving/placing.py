"""Describes a new video as the items of a bundle are described: features, reduced vectors, joint vector and topics.

The code is that of the stages `extract`, `reduce` and `topics`, and so are the networks, the fits and the topics. `publish` writes
what they leave into the folder `placing/` of the bundle, without a pickle:

    placing.json            `Facts`: the settings of `extract` and its seed, and how topics are assigned
    reduction.safetensors   the reductions by modality, as `reduce` left them
    topics/                 the model of topics: encoders (safetensors, JSON), means (JSON), tag vectors and centres (Arrow)

The networks that read pictures, clips and titles are not in it: they are found or downloaded as `extract` finds them, by the
settings. The vector of the private/public network is left out, as its network reads a whole catalog at a time.
"""

import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import ValidationError

from rayrec import tables
from rayrec.config import EXTRACTED_MODALITIES, PACKAGED, Features, Section, need_package
from rayrec.datasets.synthetic.media import encode
from rayrec.datasets.synthetic.scenes import Scene
from rayrec.features.media.isolation import IsolatedDecoder
from rayrec.features.reduction import Reduction, reduced, unpack
from rayrec.features.rows import FAILED, Networks, decode_rows, load_networks, network_rows, resolved
from rayrec.serving.additions import AddedVideo, RejectedError, catalog_table
from rayrec.serving.bundle import PLACING, BundleError, verify
from rayrec.topics.clustering import assign
from rayrec.topics.model import TopicModel
from rayrec.training.trainer import CPU
from rayrec.workspace.files import read_whole, write_whole
from rayrec.workspace.versions import Workspace

FACTS, REDUCTION, TOPICS = "placing.json", "reduction.safetensors", "topics"
TABLES = {"tag_vectors": ["tag", "vector"], "topic_centres": ["topic", "centre"]}  # of the model of topics, and their columns
SECTIONS = {"image": "ImageFeatures", "motion": "MotionFeatures", "audio": "AudioFeatures", "text": "TextFeatures"}


class Facts(Section):
    """The content of placing.json."""

    features: Features
    seed: int
    threshold: float = 1.0  # of the topics
    max_topics: int = 1
    has_topics: bool = False


def write(workspace: Workspace, folder: str) -> bool:
    """Writes what describes new videos into the folder of a bundle; returns whether there is anything to write.

    That takes the tables `features` and `vectors`, and topics if there are any.
    """
    extracted, topics = workspace.manifest("extract"), workspace.manifest("topics")
    path = f"{workspace.folder('reduce')}/{REDUCTION}" if workspace.has("vectors") else None
    if extracted is None or path is None or not workspace.fs.get_file_info(path).is_file:
        return False
    sections = {name: extracted.settings.get(section) for name, section in SECTIONS.items()}
    features = Features.model_validate(sections | {"cover_side": extracted.settings.get("cover_side")})
    facts = Facts(features=features, seed=extracted.settings["seed"])
    place = f"{folder}/{PLACING.rstrip('/')}"
    if topics is not None and workspace.rows("topic_centres") and "Topics" in topics.settings:
        settings = topics.settings["Topics"]
        facts = facts.model_copy(update={name: settings[name] for name in ("threshold", "max_topics")} | {"has_topics": True})
        _write_topics(workspace, f"{place}/{TOPICS}")
    write_whole(workspace.fs, f"{place}/{REDUCTION}", read_whole(workspace.fs, path))
    write_whole(workspace.fs, f"{place}/{FACTS}", facts.model_dump_json().encode())
    return True


def _write_topics(workspace: Workspace, folder: str) -> None:
    fs = workspace.fs
    fs.create_dir(folder, recursive=True)
    TopicModel.load(fs, workspace.check("topics"), workspace.read).save(fs, folder)
    for name, columns in TABLES.items():
        # Without the counts of videos, which change with the catalog: the model is the same.
        table = workspace.read(name, columns).combine_chunks()
        with fs.open_output_stream(f"{folder}/{name}.arrow") as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)


@dataclass
class Placer:
    """Describes one video at a time. `decode` and `describe` may run at the same time, for two videos."""

    facts: Facts
    networks: Networks
    reductions: dict[str, Reduction]
    topics: TopicModel | None
    _decoder: IsolatedDecoder | None = field(default=None, repr=False)

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str) -> Self:
        """What `write` left in the folder of a bundle, with its networks. They are tried out, so that the first video is no slower.

        Raises `BundleError` if the bundle has none or is broken, and `ConfigError` for weights that can't be loaded.
        """
        verify(fs, folder, PLACING)
        place = f"{folder}/{PLACING.rstrip('/')}"
        try:
            told = read_whole(fs, f"{place}/{FACTS}")
            facts = Facts.model_validate_json(told)
        except FileNotFoundError as error:
            raise BundleError(
                f"{folder}: the bundle can't describe new videos; run `rayrec extract CONFIG`, `rayrec reduce CONFIG` and "
                "`rayrec publish CONFIG`"
            ) from error
        except ValidationError as error:
            raise BundleError(f"{place}/{FACTS} is of another version of rayrec; run `rayrec publish CONFIG` again") from error

        text = json.loads(told)["features"]["text"]
        if text and facts.features.text is None:  # an optional network that is missing here, but was there when the bundle was made
            need_package(PACKAGED.get(text["model"], "transformers"), "weights", f"features.text.model={text['model']}")

        def table(name: str) -> pa.Table:
            return pa.ipc.open_file(read_whole(fs, f"{place}/{TOPICS}/{name}.arrow")).read_all()

        networks = load_networks(facts.features, facts.seed)
        topics = TopicModel.load(fs, f"{place}/{TOPICS}", table) if facts.has_topics else None
        settings = facts.model_copy(update={"features": resolved(facts.features, networks)})
        return cls(settings, networks, unpack(Reduction, read_whole(fs, f"{place}/{REDUCTION}")), topics)

    def decode(self, facts: dict[str, Any], timeout_s: float) -> pa.Table:
        """Reads the media of a video (a row of the catalog) in a process that may die of them; a row of `rows.DECODED`."""
        if self._decoder is None:
            self._decoder = IsolatedDecoder(decode_rows, self.facts.features, timeout_s)
        return self._decoder(media_row(facts))

    def describe(
        self, decoded: pa.Table, facts: dict[str, Any], with_features: bool = False
    ) -> tuple[AddedVideo, bytes | None, str | None]:
        """The video, its cover as a JPEG, and what could not be read of it. Raises `RejectedError` if nothing could."""
        row = network_rows(decoded, self.facts.features, self.networks)
        status, fault = row["status"][0].as_py(), row["error"][0].as_py()
        if status == FAILED:
            raise RejectedError(fault)
        given = facts | {"duration_s": facts.get("duration_s") or row["duration_s"][0].as_py()}
        columns = {name: reduced(row[name], fit, name) for name, fit in self.reductions.items() if name in row.column_names}
        vectors = tables.conform("vectors", pa.table({"video_id": row["video_id"]} | columns))
        found = {name: vectors[name][0].values.to_numpy() for name in columns if vectors[name][0].is_valid}
        raw: dict[str, np.ndarray] = {
            name: row[name][0].values.to_numpy() for name in EXTRACTED_MODALITIES if with_features and row[name][0].is_valid
        }
        video = self._with_topics(AddedVideo(given, vectors=found, features=raw), vectors, row)
        return video, row["cover_jpeg"][0].as_py(), fault

    def warm_up(self, timeout_s: float) -> None:
        """Describes a made-up clip, so that whatever is loaded at first use is loaded. Raises `RejectedError` if it can't."""
        facts = {"video_id": "warm-up", "title": "warm-up"}
        with tempfile.TemporaryDirectory(prefix="rayrec-clip-") as folder:
            path = Path(folder) / "clip.mp4"
            path.write_bytes(encode(Scene("warm-up", 0, "red", "kitchen", 0, "slow", frames=24, fps=12, side=128, seed=(0,))))
            facts["uri"] = str(path)
            self.describe(self.decode(facts, timeout_s), facts)

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()

    def _with_topics(self, video: AddedVideo, vectors: pa.Table, features: pa.Table) -> AddedVideo:
        """The video with its joint vector and topics, if anything is known of it that the model of topics reads."""
        if self.topics is None:
            return video
        joint, known = self.topics.join(catalog_table([video]), vectors, features, CPU)
        if not known[0]:
            return video
        (topics,), (similarity,) = assign(joint, self.topics.centres, self.facts.threshold, self.facts.max_topics)
        return replace(video, vector=joint[0], topics=topics.tolist(), similarity=[float(each) for each in similarity])


def media_row(facts: dict[str, Any]) -> pa.Table:
    """A row of the catalog as `decode_rows` takes it."""
    names = ("video_id", "title", "uri", "cover_uri", "file_version")
    return pa.table({name: pa.array([facts.get(name)], tables.TEXT) for name in names})
