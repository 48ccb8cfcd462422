"""What YAMNet reads: patches of 96 windows of a log-mel spectrogram, as TensorFlow computes it. It does without torch."""

import functools

import numpy as np

from rayrec.config import YAMNET_RATE
from rayrec.features.audio import magnitudes

WINDOW, STEP, POINTS = 400, 160, 512  # samples: 25 and 10 ms, and those of the Fourier transform
BANDS, LOWEST_HZ, HIGHEST_HZ = 64, 125.0, 7500.0
FLOOR = 0.001  # added to a magnitude before its logarithm
PATCH, HOP = 96, 48  # windows: a patch lasts .96 s, and the next one begins .48 s later
FIRST = WINDOW + (PATCH - 1) * STEP  # samples of the first patch
AT_ONCE = 6000  # windows, one minute, so that a long sound does not fill the memory


def spectrogram(waveform: np.ndarray) -> np.ndarray | None:
    """float32 [windows, 64] of a mono waveform in -1..1 at 16 kHz: the logarithm of the magnitude in each mel band.

    Silence is added at the end, so that the last patch is a whole one. None for a waveform that is shorter than one window.
    """
    if len(waveform) < WINDOW:
        return None
    hops = -(-max(0, len(waveform) - FIRST) // (HOP * STEP))
    padded = np.pad(waveform.astype(np.float32), (0, FIRST + hops * HOP * STEP - len(waveform)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]
    starts = range(0, len(windows), AT_ONCE)
    mel = [magnitudes(windows[start : start + AT_ONCE], POINTS) @ _bands() for start in starts]
    return np.log(np.concatenate(mel) + np.float32(FLOOR))


def patches(spectrogram: np.ndarray) -> np.ndarray:
    """float32 [windows, 64] -> [patches, 96, 64], without a copy."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(spectrogram, PATCH, axis=0)[::HOP], -1, 1)


@functools.cache
def _bands() -> np.ndarray:
    """The weight of each frequency in each band, float32 [257, 64].

    The bands are triangles with a peak of 1 on HTK's mel scale, evenly spaced there. Their sides are straight on that scale, where
    those of `audio.log_mel` are straight in Hz. The constant part of a sound is in no band.
    """
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    frequencies = _mel(np.fft.rfftfreq(POINTS, 1 / YAMNET_RATE))[:, None]
    below, peak, above = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0, np.minimum((frequencies - below) / (peak - below), (above - frequencies) / (above - peak)))
    weights[0] = 0
    return weights.astype(np.float32)


def _mel(hz: float | np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hz) / 700)
