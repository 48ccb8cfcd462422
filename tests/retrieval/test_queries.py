"""Queries become the features that the catalog's videos have."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import PICTURE, SOUND, WORDS, Features, ImageFeatures
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from rayrec.retrieval.inputs import hashed
from rayrec.retrieval.queries import QueryError, QueryReader
from rayrec.tables import TEXT
from tests.features.clips import tone
from tests.features.media.test_uploads import png, wav

FEATURES = Features(image=ImageFeatures(model="resnet18", weights="none", output="pooled", size=32), motion=None)


@pytest.fixture(scope="module")
def reader() -> QueryReader:
    return QueryReader(FEATURES, seed=3, decode_timeout_s=30)


def test_words_are_hashed_where_no_network_reads_titles(reader: QueryReader) -> None:
    np.testing.assert_array_equal(reader.read(WORDS, "a Song"), hashed(["a Song"]))
    with pytest.raises(QueryError, match="it holds no word"):
        reader.read(WORDS, " \n")


def test_a_picture_and_a_sound_have_the_features_of_a_video_with_them(reader: QueryReader, tmp_path: Path) -> None:
    (tmp_path / "cover.png").write_bytes(png((200, 40, 90)))
    (tmp_path / "sound.wav").write_bytes(wav(tone(330, 1)))
    row = {"video_id": "v", "uri": str(tmp_path / "sound.wav"), "cover_uri": str(tmp_path / "cover.png")}
    rows = pa.table({name: pa.array([row.get(name)], TEXT) for name in (*row, "title", "file_version")})
    networks = load_networks(FEATURES, 3)
    settings = resolved(FEATURES, networks)
    (video,) = network_rows(decode_rows(rows, settings), settings, networks).to_pylist()
    try:
        reader.warm_up([WORDS, PICTURE, SOUND])
        np.testing.assert_allclose(reader.read(PICTURE, png((200, 40, 90)))[0], video["cover"], rtol=1e-5)
        np.testing.assert_allclose(reader.read(SOUND, wav(tone(330, 1)))[0], video["audio"], rtol=1e-5)
        with pytest.raises(QueryError, match="the picture can't be read: it is not a picture"):
            reader.read(PICTURE, b"no")
    finally:
        reader.close()
