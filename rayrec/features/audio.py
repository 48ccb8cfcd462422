"""pyAudioAnalysis' 34 short-term features of a waveform, averaged over its windows.

In order: zero-crossing rate, energy, entropy of energy, spectral centroid, spread, entropy, flux and roll-off, 13 MFCCs, 12 chroma
and their standard deviation. The library removes the mean and scales the peak to 1, so loudness does not count; digital silence
gives zeros, but for the first MFCC (about -99, the logarithm of nothing).
"""

import functools
import warnings
from types import ModuleType

import numpy as np

from rayrec.config import AudioFeatures, ConfigError

SIZE = 34


def audio_features(waveform: np.ndarray, settings: AudioFeatures) -> np.ndarray | None:
    """float32 [34] of a mono waveform in -1..1 at `settings.sample_rate`; None when it is shorter than one window."""
    window, step = int(settings.window_s * settings.sample_rate), int(settings.step_s * settings.sample_rate)
    if len(waveform) < window:
        return None
    # The library reads 16-bit files and divides by 2**15; rounding as they do keeps a codec's inaudible noise from being scaled up.
    samples = np.round(waveform * 32768.0)
    windows, _ = _library().feature_extraction(samples, settings.sample_rate, window, step, deltas=False)
    return windows.mean(axis=1).astype(np.float32)


@functools.cache
def _library() -> ModuleType:
    """Imported when it is first needed, for it brings matplotlib and most of SciPy: 3 s."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please import `dct`", DeprecationWarning)  # an import of its own, fine until SciPy 2.0
        from pyAudioAnalysis import ShortTermFeatures
    # It works this table, which depends on nothing but its arguments, out anew for every window: 60 % of all its time.
    ShortTermFeatures.chroma_features_init = functools.cache(ShortTermFeatures.chroma_features_init)
    return ShortTermFeatures


def check(settings: AudioFeatures) -> None:
    """Raises `ConfigError` for a window or sample rate that the library can't work with."""
    if settings == AudioFeatures():
        return  # known to work: the library need not be imported
    if int(settings.step_s * settings.sample_rate) < 1:
        raise ConfigError(f"features.audio: step_s={settings.step_s} is less than one sample at sample_rate={settings.sample_rate}")
    noise = np.random.default_rng(0).uniform(-1, 1, 2 * int(max(settings.window_s, 1) * settings.sample_rate))
    try:
        audio_features(noise, settings)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"features.audio: pyAudioAnalysis can't work with sample_rate={settings.sample_rate}, window_s={settings.window_s}, "
            f"step_s={settings.step_s} ({error}); try sample_rate=22050, window_s=0.05, step_s=0.025"
        ) from error
