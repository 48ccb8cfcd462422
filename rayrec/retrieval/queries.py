"""Reads a query with the networks that read the catalog: words, an uploaded picture or an uploaded sound -> features."""

import functools
import io
import threading
import wave
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rayrec.config import PICTURE, SOUND, WORDS, Features
from rayrec.errors import RayrecError
from rayrec.features.media.isolation import IsolatedDecoder
from rayrec.features.media.uploads import UPLOADS, decode_uploads
from rayrec.features.rows import Networks, resolved
from rayrec.retrieval.inputs import TEXT, hashed

if TYPE_CHECKING:
    from rayrec.features.networks import FeatureNetwork
    from rayrec.features.text import TextNetwork
    from rayrec.features.universal_sentences import UniversalSentenceEncoder

MODALITY_OF = {WORDS: TEXT, PICTURE: "cover", SOUND: "audio"}  # which projection a kind of query goes through
SILENCE_S, SILENCE_RATE = 0.2, 8000


class QueryError(RayrecError):
    """A query can't be read; the message says what to change."""


class QueryReader:
    """Loads each network when a query first needs it. Any thread may call it; pictures and sounds are decoded one at a time."""

    def __init__(self, features: Features, seed: int, decode_timeout_s: float) -> None:
        self.features, self.seed, self.decode_timeout_s = features, seed, decode_timeout_s
        self._loading, self._decoding = threading.Lock(), threading.Lock()

    def read(self, kind: str, content: str | bytes) -> np.ndarray:
        """The features of a query of this kind (a key of `MODALITY_OF`), float32 [1, D].

        Raises `QueryError` for one that can't be read or says nothing.
        """
        if isinstance(content, str):
            return self.texts([content])
        decoded = self._decoded(kind, content)
        if kind == SOUND:
            return np.array([decoded["audio"]], dtype=np.float32)
        from rayrec.features.image import image_features

        with self._loading:
            network = self._pictures
        square = np.frombuffer(decoded["pixels"], np.uint8).reshape(network.size, network.size, 3)
        return np.array(image_features(network, [], [square])[1], dtype=np.float32)

    def texts(self, texts: list[str]) -> np.ndarray:
        """The features of words, float32 [N, D]. Raises `QueryError` for a text without any word."""
        if not all(text.strip() for text in texts):
            raise QueryError("text: it holds no word")
        if self.features.text is None:
            return hashed(texts)
        from rayrec.features.text import text_features

        with self._loading:
            network = self._titles
        return np.array(text_features(network, list(texts)), dtype=np.float32)

    def warm_up(self, kinds: list[str]) -> None:
        """Load what these kinds of queries need, and start the process that decodes, so that the first query need not wait."""
        if WORDS in kinds:
            self.texts(["warm up"])
        if PICTURE in kinds:
            with self._loading:
                _ = self._pictures
        if SOUND in kinds:
            self.read(SOUND, _silence())

    def close(self) -> None:
        """End the process that decodes, if it was started."""
        if "_decoder" in vars(self):
            self._decoder.close()

    def _decoded(self, kind: str, data: bytes) -> dict[str, bytes]:
        with self._decoding:
            with self._loading:
                decoder = self._decoder
            (found,) = decoder(pa.Table.from_pylist([{"kind": kind, "data": data}], schema=UPLOADS)).to_pylist()
        if found["error"]:
            raise QueryError(f"the {kind} can't be read: {found['error']}")
        return dict(found)

    @functools.cached_property
    def _titles(self) -> "TextNetwork | UniversalSentenceEncoder":
        from rayrec.features.text import text_network

        assert self.features.text is not None
        return text_network(self.features.text)

    @functools.cached_property
    def _pictures(self) -> "FeatureNetwork":
        from rayrec.features.image import image_network

        assert self.features.image is not None
        return image_network(self.features.image, self.seed)

    @functools.cached_property
    def _decoder(self) -> IsolatedDecoder:
        networks = Networks(image=self._pictures) if self.features.image is not None else Networks()
        return IsolatedDecoder(decode_uploads, resolved(self.features, networks), self.decode_timeout_s)


def _silence() -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SILENCE_RATE)
        sound.writeframes(bytes(2 * int(SILENCE_S * SILENCE_RATE)))
    return file.getvalue()
