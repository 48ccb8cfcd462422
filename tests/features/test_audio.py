"""Audio features against the library itself, against tones whose features are known, and on a published task."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from rayrec.config import AudioFeatures, ConfigError, Features
from rayrec.features.audio import LOG_FLOOR, audio_features, check, log_mel
from rayrec.features.media.decode import decode
from rayrec.features.short_term import SIZE
from tests.features.clips import RATE, tone, write_clip

SETTINGS = AudioFeatures()
ZCR, CENTROID = 0, 3
ESC10 = Path(__file__).parents[2].parent / "shared" / "data" / "esc10" / "esc10_ogg.tar"


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
    both = audio_features(noise, AudioFeatures(statistics="mean_std"))
    assert both == pytest.approx(np.r_[windows.mean(axis=1), windows.std(axis=1)], rel=1e-5, abs=1e-6)
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


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_any_sample_rate(tmp_path: Path, small: Features, rate: int) -> None:
    """Whatever the file's own rate is, sound is brought to the configured one."""
    clip = str(write_clip(tmp_path / "a.mp4", frames=0, sound=tone(880, 2.0)))
    there = decode(clip, small.model_copy(update={"audio": AudioFeatures(sample_rate=rate)}))
    features = audio_features(there.waveform, AudioFeatures(sample_rate=rate))
    assert there.sample_rate == RATE
    assert features[ZCR] == pytest.approx(2 * 880 / rate, rel=0.05)


def test_settings_without_features() -> None:
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


def slow_log_mel(waveform: np.ndarray, rate: int, bands: int, window: int, step: int) -> np.ndarray:
    """The same by its definition: a Fourier sum for each frequency, and each band's triangle point by point."""
    points = 1
    while points < window:
        points *= 2
    moment = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * moment / window)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * edge / (bands + 1) / 2595) - 1) for edge in range(bands + 2)]
    columns = []
    for start in range(0, len(waveform) - window + 1, step):
        piece = waveform[start : start + window] * hann
        energy = [abs((piece * np.exp(-2j * np.pi * k * moment / points)).sum()) ** 2 for k in range(points // 2 + 1)]
        column = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, value in enumerate(energy):
                hz = k * rate / points
                if low < hz <= middle:
                    total += value * (hz - low) / (middle - low)
                elif middle < hz < high:
                    total += value * (high - hz) / (high - middle)
            column.append(np.log(total + LOG_FLOOR))
        columns.append(column)
    return np.array(columns).T


def test_log_mel_is_what_its_definition_says() -> None:
    waveform = np.random.default_rng(2).normal(0, 0.1, 2000).astype(np.float32) + tone(1000, 0.25, 8000)[:2000]
    fast = log_mel(waveform, 8000, bands=20, window_s=0.025, step_s=0.010)
    assert fast.dtype == np.float32
    assert fast.shape == (20, 23)
    assert fast == pytest.approx(slow_log_mel(waveform, 8000, 20, 200, 80), abs=1e-3)


def test_log_mel_of_tones_and_of_nothing() -> None:
    loudest = [int(log_mel(tone(hz, 1.0), RATE).mean(axis=1).argmax()) for hz in (200, 800, 3200)]
    assert loudest == sorted(set(loudest))
    assert log_mel(tone(440, 1.0), RATE).shape == (64, 98)
    short = log_mel(np.zeros(10, np.float32), RATE, bands=8)
    assert short.shape == (8, 1)
    assert short == pytest.approx(np.log(LOG_FLOOR))


@pytest.mark.skipif(not ESC10.exists(), reason=f"ESC-10 is not at {ESC10}: the audio features are not held to a published task")
def test_ten_kinds_of_sound_are_told_apart(tmp_path: Path) -> None:
    """The library called directly gave .8075 with the same forest (mean alone .7425). Folds are given by the files' names."""
    settings = Features(image=None, motion=None, audio=AudioFeatures(statistics="mean_std"))
    with tarfile.open(ESC10) as archive:
        archive.extractall(tmp_path, filter="data")
    clips = sorted(tmp_path.rglob("*.ogg"))
    assert len(clips) == 400
    features = np.stack([audio_features(decode(str(clip), settings).waveform, settings.audio) for clip in clips])
    kinds, folds = np.array([clip.parent.name for clip in clips]), np.array([clip.name[0] for clip in clips])
    right = []
    for fold in "12345":
        forest = RandomForestClassifier(500, random_state=0, n_jobs=2).fit(features[folds != fold], kinds[folds != fold])
        right.append(forest.score(features[folds == fold], kinds[folds == fold]))
    assert features.shape[1] == 68
    assert np.mean(right) >= 0.79
