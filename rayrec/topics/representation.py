"""The joint representation z of Pu et al.: how a catalog is read, the encoders that read it, and how both are saved.

Everything that was fitted (scales, subwords, weights) is saved together, so that later videos are encoded in exactly the same way.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from rayrec.config import ImageFeatures, Topics, dump
from rayrec.errors import RayrecError
from rayrec.topics.contents import Contents, Scale, fit_scales, read_covers, read_titles, read_vectors
from rayrec.topics.encoders import CoverEncoder, Encoders, PretrainedTitles, TitleBag, TitleTransformer, vector_encoder
from rayrec.topics.titles import HashedTitles, SubwordTitles, TitleCodec

WEIGHTS, RECORD = "encoders.safetensors", "encoders.json"
FOREIGN = "{} is the topic model of another version of rayrec; run `rayrec topics learn CONFIG` to train it anew"


class NothingToReadError(RayrecError):
    """No video of the catalog has a cover or a title."""


@dataclass
class Representation:
    """Encoders, and the settings under which they read a catalog."""

    settings: Topics
    scales: dict[str, Scale]  # of the modalities that f_C reads
    covers: bool  # whether f_C reads pixels
    codec: TitleCodec | None
    transformer: str  # the configuration of a pretrained transformer, as JSON; empty for none
    encoders: Encoders

    @classmethod
    def start(
        cls, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None, settings: Topics, seed: int
    ) -> "Representation":
        """Encoders before their training, shaped for this catalog. Parts that it lacks are left out.

        Raises `NothingToReadError` for a catalog without covers and titles, `ConfigError` for a pretrained network that is missing.
        """
        covers = settings.cover_network is not None and features is not None and features["cover_jpeg"].null_count < len(features)
        scales = {} if covers else fit_scales(catalog, vectors, list(settings.modalities))
        codec: TitleCodec | None = None
        body, transformer = None, ""
        if catalog["title"].null_count < catalog.num_rows:
            if settings.title_encoder == "bag":
                codec = HashedTitles()
            elif settings.title_encoder == "transformer":
                codec = SubwordTitles.learned(catalog["title"].to_pylist())
            else:
                from rayrec.features.text import load_transformer  # needs the extra `text`

                body, subwords = load_transformer(settings.title_encoder, "topics.title_encoder")
                configuration: Any = body.config
                codec, transformer = SubwordTitles(subwords, configuration.pad_token_id or 0), configuration.to_json_string()
        if not (scales or covers or codec):
            raise NothingToReadError("no video has a cover or a title")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoders = _encoders(settings, scales, covers, codec, body, pretrained=True)
        return cls(settings, scales, covers, codec, transformer, encoders)

    def contents(self, catalog: pa.Table, vectors: pa.Table | None, features: pa.Table | None) -> Contents:
        """The encoders' inputs for any catalog: the one they were fitted on, or one with later videos."""
        return Contents(
            catalog.num_rows,
            read_vectors(catalog, vectors, self.scales),
            read_covers(catalog, features) if self.covers else None,
            self.settings.cover_network.size if self.settings.cover_network else 0,
            read_titles(catalog, self.codec) if self.codec else None,
            self.codec.padding if self.codec else 0,
        )

    def save(self, fs: pafs.FileSystem, folder: str) -> None:
        fs.create_dir(folder, recursive=True)
        record = {
            "settings": dump(self.settings),
            "scales": {name: asdict(scale) for name, scale in self.scales.items()},
            "covers": self.covers,
            "titles": self.codec.to_json() if self.codec else None,
            "padding": self.codec.padding if self.codec else 0,
            "transformer": self.transformer,
        }
        weights = {name: value.contiguous() for name, value in self.encoders.state_dict().items()}
        for name, data in ((WEIGHTS, safetensors.torch.save(weights)), (RECORD, json.dumps(record).encode())):
            with fs.open_output_stream(f"{folder}/{name}") as stream:
                stream.write(data)

    @classmethod
    def load(cls, fs: pafs.FileSystem, folder: str) -> "Representation":
        """Raises `RayrecError` for one that another version of rayrec wrote with other settings."""
        with fs.open_input_file(f"{folder}/{RECORD}") as file:
            record = json.loads(file.read())
        try:
            settings = Topics.model_validate(record["settings"])
        except ValidationError as error:
            raise RayrecError(FOREIGN.format(folder)) from error
        scales = {name: Scale(**scale) for name, scale in record["scales"].items()}
        codec: TitleCodec | None = None
        if record["titles"] is not None:
            codec = SubwordTitles(record["titles"], record["padding"]) if record["titles"] else HashedTitles()
        body = None
        if record["transformer"]:
            from rayrec.features.text import transformer_of

            body = transformer_of(record["transformer"])
        encoders = _encoders(settings, scales, record["covers"], codec, body, pretrained=False)
        with fs.open_input_file(f"{folder}/{WEIGHTS}") as file:
            weights = safetensors.torch.load(file.read())
        try:
            encoders.load_state_dict(weights)
        except RuntimeError as error:  # torch's own for other names or shapes
            raise RayrecError(FOREIGN.format(folder)) from error
        return cls(settings, scales, record["covers"], codec, record["transformer"], encoders.eval())


@torch.inference_mode()
def encode(encoders: Encoders, contents: Contents, rows: np.ndarray, device: torch.device, batch_size: int) -> np.ndarray:
    """z of the videos at these rows, float32 [rows, Z]."""
    encoders.eval()
    batches = contents.batches(rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    parts = [encoders(batch.to(device)).cpu().numpy() for batch in batches]
    return np.concatenate(parts) if parts else np.empty((0, encoders.size), dtype=np.float32)


def _encoders(
    settings: Topics,
    scales: dict[str, Scale],
    covers: bool,
    codec: TitleCodec | None,
    transformer: nn.Module | None,
    pretrained: bool,
) -> Encoders:
    size = settings.encoder_size
    vectors = vector_encoder(sum(scale.size for scale in scales.values()), settings) if scales else None
    pixels: nn.Module | None = None
    titles: nn.Module | None = None
    if covers:
        # Imported here, because torchvision takes 6 s, and most catalogs are not read through a cover network.
        from rayrec.features.image import IMAGE_MODELS
        from rayrec.features.networks import build

        network = settings.cover_network
        assert network is not None
        weights = network.weights if pretrained else "none"
        wanted = ImageFeatures(model=network.model, weights=weights, output="pooled", size=network.size)
        body = build(IMAGE_MODELS, "topics.cover_network", wanted, (network.size, network.size, 3), seed=0)
        with torch.inference_mode():
            width = body(torch.zeros(1, network.size, network.size, 3, dtype=torch.uint8)).shape[1]
        pixels = CoverEncoder(body, width, size)
    if codec is not None:
        if transformer is not None:
            configuration: Any = transformer.config
            titles = PretrainedTitles(transformer, configuration.hidden_size, size, codec.padding)
        else:
            titles = (TitleBag if isinstance(codec, HashedTitles) else TitleTransformer)(codec.size, size)
    return Encoders(vectors, pixels, titles, size)
