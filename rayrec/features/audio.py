"""Audio features: the 34 short-term features, averaged over the windows, and log-mel spectrograms."""

import functools

import numpy as np

from rayrec.config import AudioFeatures, ConfigError
from rayrec.features.short_term import short_term_features

LOG_FLOOR = 1e-6  # added to an energy before its logarithm, so that digital silence gives -13.8


def audio_features(waveform: np.ndarray, settings: AudioFeatures) -> np.ndarray | None:
    """The features of a mono waveform in -1..1 at `settings.sample_rate`: float32 [34], or [68] with `statistics: mean_std`.

    None for a waveform that is shorter than one window.
    """
    window, step = int(settings.window_s * settings.sample_rate), int(settings.step_s * settings.sample_rate)
    if len(waveform) < window:
        return None
    # Rounding to 16 bits keeps the inaudible noise of a codec from being scaled up.
    samples = np.round(waveform * 32768.0) / 32768.0
    windows = short_term_features(samples.astype(np.float64), settings.sample_rate, window, step)
    statistics = [windows.mean(axis=0), *([windows.std(axis=0)] if settings.statistics == "mean_std" else [])]
    return np.concatenate(statistics).astype(np.float32)


def log_mel(waveform: np.ndarray, sample_rate: int, bands: int = 64, window_s: float = 0.025, step_s: float = 0.010) -> np.ndarray:
    """The logarithm of the energy in each mel band of each window of a mono waveform, float32 [bands, frames].

    The windows are Hann windows, and the FFT has the next power of two of points. The bands are triangles with a peak of 1, from
    0 Hz to half the sample rate, evenly spaced on HTK's mel scale. A waveform shorter than one window is padded with silence.
    """
    window, step = round(window_s * sample_rate), max(1, round(step_s * sample_rate))
    padded = np.pad(waveform.astype(np.float32), (0, max(0, window - len(waveform))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::step]
    points = 1 << (window - 1).bit_length()
    energies = magnitudes(windows, points) ** 2
    return np.log(_mel_bands(sample_rate, points, bands) @ energies.T + LOG_FLOOR).astype(np.float32)


def magnitudes(windows: np.ndarray, points: int) -> np.ndarray:
    """The magnitude of each frequency of each window, float32 [frames, points / 2 + 1], of windows float32 [frames, samples].

    They are weighted as Hann windows first.
    """
    hann = np.hanning(windows.shape[1] + 1)[:-1].astype(np.float32)
    return np.abs(np.fft.rfft(windows * hann, points))


@functools.lru_cache(maxsize=8)
def _mel_bands(sample_rate: int, points: int, bands: int) -> np.ndarray:
    """The weight of each frequency of the spectrum in each band, float64 [bands, points / 2 + 1]."""
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(points, 1 / sample_rate)
    below, peak, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - below) / (peak - below), (above - frequencies) / (above - peak)
    return np.maximum(0, np.minimum(rising, falling))


def check(settings: AudioFeatures) -> None:
    """Raises `ConfigError` for a window or sample rate for which there are no features."""
    if int(settings.step_s * settings.sample_rate) < 1:
        raise ConfigError(f"features.audio: step_s={settings.step_s} is less than one sample at sample_rate={settings.sample_rate}")
    window = int(settings.window_s * settings.sample_rate)
    try:
        short_term_features(np.zeros(window), settings.sample_rate, window, window)
    except ValueError as error:
        raise ConfigError(
            f"features.audio: there are no features for sample_rate={settings.sample_rate} and window_s={settings.window_s} "
            f"({error}); try sample_rate=22050, window_s=0.05, step_s=0.025"
        ) from error
