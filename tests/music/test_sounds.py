"""The sound of a track has the features of a video's sound, and patches of its spectrogram; a file without sound says so."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayrec.config import AudioFeatures, Features
from rayrec.features.audio import audio_features
from rayrec.features.media.decode import decode
from rayrec.features.yamnet.spectrogram import BANDS, PATCH, patches, spectrogram
from rayrec.music.sounds import NO_SOUND, SoundSettings, sound_rows, spread
from rayrec.tables import TEXT
from tests.features.clips import tone, write_clip


def rows(*paths: Path | str) -> pa.Table:
    names = [Path(path).stem for path in paths]
    columns = {"video_id": names, "uri": [str(path) for path in paths], "title": names, "file_version": names}
    return pa.table({name: pa.array(values, TEXT) for name, values in columns.items()})


@pytest.fixture
def hum(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "hum.mp4", frames=0, sound=tone(440, 4))


def test_features_are_those_of_a_video_and_patches_those_of_the_spectrogram(hum: Path) -> None:
    settings = SoundSettings(AudioFeatures(), patches=3)
    (row,) = sound_rows(rows(hum), settings).to_pylist()
    assert (row["video_id"], row["status"], row["error"]) == ("hum", "ok", None)
    at = {
        rate: decode(str(hum), Features(image=None, motion=None, audio=AudioFeatures(sample_rate=rate)))
        for rate in (22_050, 16_000)
    }
    slow, fast = at[16_000].waveform, at[22_050].waveform
    assert slow is not None
    assert fast is not None
    np.testing.assert_allclose(row["audio"], audio_features(fast, AudioFeatures()), rtol=1e-5)
    spectra = spectrogram(slow)
    assert spectra is not None
    found = np.frombuffer(row["patches"], np.float16).reshape(-1, PATCH, BANDS)
    np.testing.assert_array_equal(found, spread(patches(spectra), 3).astype(np.float16))


def test_a_model_of_words_needs_no_patches(hum: Path) -> None:
    (row,) = sound_rows(rows(hum), SoundSettings(AudioFeatures())).to_pylist()
    assert row["patches"] is None
    assert row["audio"] is not None


def test_a_file_without_sound_or_that_is_none_has_failed(tmp_path: Path, hum: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", frames=6)
    text = tmp_path / "text.ogg"
    text.write_text("no sound at all")
    found = sound_rows(rows(silent, text, tmp_path / "gone.ogg", hum), SoundSettings(None, patches=2)).to_pylist()
    assert [(row["status"], row["error"]) for row in found] == [
        ("failed", NO_SOUND),
        ("failed", "not a video or sound file"),
        ("failed", "there is no such file"),
        ("ok", None),
    ]


def test_patches_are_spread_evenly() -> None:
    everything = np.arange(12)
    assert spread(everything, 20).tolist() == everything.tolist()
    assert spread(everything, 4).tolist() == [1, 4, 7, 10]
