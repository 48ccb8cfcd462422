"""Audio features against the library itself and against tones whose features are known."""

from pathlib import Path

import numpy as np
import pytest

from rayrec.config import AudioFeatures, ConfigError, Features
from rayrec.features.audio import SIZE, audio_features, check
from rayrec.features.decode import decode
from tests.features.clips import RATE, tone, write_clip

SETTINGS = AudioFeatures()
ZCR, CENTROID = 0, 3


@pytest.mark.filterwarnings("ignore:Please import `dct`:DeprecationWarning")
def test_equal_to_the_library_called_directly() -> None:
    from pyAudioAnalysis import ShortTermFeatures

    noise = np.random.default_rng(3).normal(0, 0.1, 2 * RATE).astype(np.float32) + tone(500, 2.0)
    samples = np.round(noise * 32768.0).astype(np.int16)
    windows, names = ShortTermFeatures.feature_extraction(samples, RATE, 0.05 * RATE, 0.025 * RATE, deltas=False)
    ours = audio_features(noise, SETTINGS)
    assert ours.shape == (SIZE,) == (len(names),)
    assert ours.dtype == np.float32
    assert ours == pytest.approx(windows.mean(axis=1), rel=1e-5, abs=1e-6)
    assert names[ZCR] == "zcr"
    assert names[CENTROID] == "spectral_centroid"


def test_pitch_is_heard() -> None:
    pitches = [220, 440, 880, 1760, 3520]
    features = np.stack([audio_features(tone(hz, 1.0), SETTINGS) for hz in pitches])
    assert (np.diff(features[:, CENTROID]) > 0).all()
    # A tone of f Hz crosses zero 2 f times a second.
    assert features[:, ZCR] == pytest.approx([2 * hz / RATE for hz in pitches], rel=0.05)


def test_loudness_does_not_count() -> None:
    sound = tone(440, 1.0) + tone(1000, 1.0)
    assert audio_features(sound / 8, SETTINGS) == pytest.approx(audio_features(sound, SETTINGS), rel=0.01, abs=0.01)


SILENCES = [np.zeros(RATE), np.full(RATE, 0.25), np.full(RATE, 1e-7), np.ones(1102), np.r_[np.zeros(RATE), tone(440, 1.0)]]


@pytest.mark.parametrize("waveform", SILENCES)
def test_silence_gives_finite_numbers(waveform: np.ndarray) -> None:
    features = audio_features(waveform.astype(np.float32), SETTINGS)
    assert features.shape == (SIZE,)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("samples", [0, 1, 1101])
def test_less_than_a_window_gives_nothing(samples: int) -> None:
    assert audio_features(np.ones(samples, np.float32), SETTINGS) is None


def test_stereo_equals_mono_of_the_same_sound(tmp_path: Path, small: Features) -> None:
    sound = tone(660, 1.5) * np.hanning(round(1.5 * RATE)).astype(np.float32)  # without the edges that codecs overshoot at
    waveforms = [decode(str(write_clip(tmp_path / f"{n}.mp4", sound=sound, channels=n)), small).waveform for n in (1, 2)]
    mono, stereo = (audio_features(waveform, SETTINGS) for waveform in waveforms)
    assert mono[:8] == pytest.approx(stereo[:8], rel=0.05, abs=0.02)


def test_settings_that_the_library_cannot_work_with() -> None:
    check(SETTINGS)
    check(AudioFeatures(sample_rate=16_000))
    for settings in (AudioFeatures(sample_rate=4000), AudioFeatures(sample_rate=8000, window_s=0.02), AudioFeatures(step_s=1e-6)):
        with pytest.raises(ConfigError, match=r"features\.audio: .*sample_rate="):
            check(settings)


def test_real_clips_sound_like_something(real_videos: list[Path], small: Features) -> None:
    features = np.stack([audio_features(decode(str(path), small).waveform, small.audio) for path in real_videos])
    assert np.isfinite(features).all()
    assert (features[:, ZCR] > 0.005).all()
    assert (features[:, ZCR] < 0.5).all()
    assert (features[:, CENTROID] > 0.02).all()
    assert (features[:, CENTROID] < 0.7).all()
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert distances[~np.eye(len(features), dtype=bool)].min() > 0.5  # four places, four sounds
