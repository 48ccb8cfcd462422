"""The 34 short-term features of pyAudioAnalysis (Giannakopoulos, 2015), computed for many windows at once.

In order: zero-crossing rate, energy, entropy of energy, spectral centroid, spread, entropy, flux and roll-off, 13 MFCCs, 12 chroma
values and their standard deviation. The library goes through the windows one by one, and takes three times as long. Its numbers are
the definition: where it differs from the textbook (its mel filters and chroma classes), so does this module.
"""

import functools

import numpy as np

SIZE = 34
MFCCS = 13
BLOCKS = 10  # into which a window, or its spectrum, is cut for its entropy
ROLL_OFF = 0.9  # of the energy
WINDOWS_AT_ONCE = 512
EPS = np.finfo(float).eps


def short_term_features(samples: np.ndarray, sample_rate: int, window: int, step: int) -> np.ndarray:
    """The features of each window of mono samples in -1..1, float64 [windows, 34]. `window` and `step` are numbers of samples.

    The mean is removed and the peak scaled to 1, so that loudness does not matter. Digital silence gives zeros, except for the
    first MFCC (about -99, because of the logarithm of almost zero). Raises `ValueError` for a window or sample rate for which there
    are no mel filters or chroma classes.
    """
    points = window // 2
    filters, chroma = _mel_filters(sample_rate, points), _chroma(sample_rate, points)
    centred = samples - samples.mean()
    windows = np.lib.stride_tricks.sliding_window_view(centred / (np.abs(centred).max() + 1e-10), window)[::step]
    found, before = [], None
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        x = windows[first : first + WINDOWS_AT_ONCE]
        spectra = np.abs(np.fft.rfft(x)[:, :points]) / points
        before = np.concatenate([spectra[:1] if before is None else before[-1:], spectra[:-1]])
        columns = (_of_waveforms(x), _of_spectra(spectra, before, sample_rate), _mfccs(spectra, filters), _chromas(spectra, chroma))
        found.append(np.hstack(columns))
        before = spectra
    return np.concatenate(found)


def _of_waveforms(x: np.ndarray) -> np.ndarray:
    """Zero-crossing rate, energy and entropy of energy, [windows, 3]."""
    crossings = np.abs(np.diff(np.sign(x), axis=1)).sum(1) / 2
    return np.stack([crossings / (x.shape[1] - 1), (x**2).mean(1), _entropy(x**2)], axis=1)


def _of_spectra(spectra: np.ndarray, before: np.ndarray, sample_rate: int) -> np.ndarray:
    """Centroid, spread, entropy, flux and roll-off, [windows, 5]. `before` has the spectrum of the window before each."""
    points = spectra.shape[1]
    hz = np.arange(1, points + 1) * (sample_rate / (2 * points))
    peaks = spectra.max(1, keepdims=True)
    scaled = spectra / np.where(peaks == 0, 1, peaks)
    total = scaled.sum(1) + EPS
    centroid = scaled @ hz / total
    spread = np.sqrt(((hz - centroid[:, None]) ** 2 * scaled).sum(1) / total)
    shares, shares_before = (each / (each + EPS).sum(1, keepdims=True) for each in (spectra, before))
    flux = ((shares - shares_before) ** 2).sum(1)
    energy = spectra**2
    beyond = np.cumsum(energy, axis=1) + EPS > ROLL_OFF * energy.sum(1, keepdims=True)
    half = sample_rate / 2
    return np.stack([centroid / half, spread / half, _entropy(energy), flux, beyond.argmax(1) / points], axis=1)


def _entropy(energy: np.ndarray) -> np.ndarray:
    """The entropy (bits) of how the energy of each row lies in `BLOCKS` blocks of it."""
    length = energy.shape[1] // BLOCKS
    blocks = energy[:, : BLOCKS * length].reshape(len(energy), BLOCKS, length).sum(2)
    shares = blocks / (energy.sum(1, keepdims=True) + EPS)
    return -(shares * np.log2(shares + EPS)).sum(1)


def _mfccs(spectra: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """The first coefficients of the orthonormal DCT-II of the logarithm of each mel band, [windows, 13]."""
    bands = len(filters)
    cosines = np.cos(np.pi / bands * np.outer(np.arange(MFCCS), np.arange(bands) + 0.5)) * np.sqrt(2 / bands)
    cosines[0] /= np.sqrt(2)
    return np.log10(spectra @ filters.T + EPS) @ cosines.T


def _chromas(spectra: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """The share of each of 12 semitones, and the standard deviation of these, [windows, 13]."""
    energy = spectra**2
    total = energy.sum(1, keepdims=True)
    shares = energy @ chroma.T / np.where(total == 0, EPS, total)
    return np.column_stack([shares, shares.std(1)])


@functools.lru_cache(maxsize=8)
def _mel_filters(sample_rate: int, points: int) -> np.ndarray:
    """The weight of each point of the spectrum in each of 40 triangles, [40, points]: 13 spaced evenly, 27 by a constant factor.

    The library takes the points to span the whole sample rate, and not half of it.
    """
    even = 133.33 + 200 / 3 * np.arange(13)
    edges = np.concatenate([even, even[-1] * 1.0711703 ** np.arange(1, 30)])
    if edges[-1] >= sample_rate:
        raise ValueError(f"the highest mel filter ends at {edges[-1]:.0f} Hz")
    hz = np.arange(points) / points * sample_rate
    places = np.floor(edges * points / sample_rate)
    filters = np.zeros((len(edges) - 2, points))
    at = np.arange(points)
    for row, (low, peak, high) in enumerate(zip(edges[:-2], edges[1:-1], edges[2:], strict=True)):
        height = 2 / (high - low)
        rising, falling = (at > places[row]) & (at <= places[row + 1]), (at > places[row + 1]) & (at <= places[row + 2])
        filters[row, rising] = height / (peak - low) * (hz[rising] - low)
        filters[row, falling] = height / (high - peak) * (high - hz[falling])
    return filters


@functools.lru_cache(maxsize=8)
def _chroma(sample_rate: int, points: int) -> np.ndarray:
    """The weight of each point's energy in each of 12 semitones, [12, points].

    Of the points that fall on one note, the library takes the last, and divides it by the number of points of another note. Notes
    below 27.5 Hz count from the end.
    """
    hz = np.arange(1, points + 1) * sample_rate / (2 * points)
    notes = np.round(12 * np.log2(hz / 27.5)).astype(int)
    if points == 0 or notes.max() >= points or notes.min() < -points:
        raise ValueError(f"a window has {points} points, which are too few for its notes")
    _, inverse, counts = np.unique(notes, return_inverse=True, return_counts=True)
    weights = np.zeros((points, points))
    for point, note in enumerate(notes):
        weights[note] = 0
        weights[note, point] = 1
    weights /= counts[inverse][notes][:, None]
    return np.pad(weights, ((0, -points % 12), (0, 0))).reshape(-1, 12, points).sum(0)
