"""What YAMNet reads, against its definition, and how much silence is added."""

import numpy as np
import pytest

from rayrec.features.yamnet.spectrogram import patches, spectrogram
from tests.features.clips import tone

RATE = 16_000


def slow_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """By its definition: a Fourier sum for each frequency, and each band's triangle on the mel scale point by point."""
    moment = np.arange(400)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * moment / 400)
    mel = [1127 * np.log(1 + k * RATE / 512 / 700) for k in range(257)]
    low, high = (1127 * np.log(1 + hz / 700) for hz in (125, 7500))
    edges = [low + (high - low) * edge / 65 for edge in range(66)]
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        piece = waveform[start : start + 400] * hann
        size = [abs((piece * np.exp(-2j * np.pi * k * moment / 512)).sum()) for k in range(257)]
        row = []
        for below, peak, above in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k in range(1, 257):
                total += size[k] * max(0, min((mel[k] - below) / (peak - below), (above - mel[k]) / (above - peak)))
            row.append(np.log(total + 0.001))
        rows.append(row)
    return np.array(rows)


def test_it_is_what_its_definition_says() -> None:
    waveform = np.random.default_rng(2).normal(0, 0.1, 2000).astype(np.float32) + tone(1000, 0.125, RATE)
    found = spectrogram(waveform)
    assert found.dtype == np.float32
    assert found.shape == (96, 64)
    expected = slow_spectrogram(np.pad(waveform, (0, 15_600 - 2000)))
    assert found == pytest.approx(expected, abs=1e-3)
    assert found[-1] == pytest.approx(np.log(0.001))  # the silence


@pytest.mark.parametrize(("samples", "count"), [(400, 1), (15_600, 1), (15_601, 2), (23_280, 2), (23_281, 3), (160_000, 20)])
def test_silence_fills_the_last_patch(samples: int, count: int) -> None:
    found = spectrogram(np.ones(samples, np.float32))
    assert found.shape == (96 + 48 * (count - 1), 64)
    cut = patches(found)
    assert cut.shape == (count, 96, 64)
    assert (cut[-1] == found[-96:]).all()


def test_less_than_a_window_gives_nothing_and_a_long_sound_is_done_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spectrogram(np.ones(399, np.float32)) is None
    sound = tone(440, 3.0, RATE)
    whole = spectrogram(sound)
    monkeypatch.setattr("rayrec.features.yamnet.spectrogram.AT_ONCE", 50)
    assert spectrogram(sound) == pytest.approx(whole, abs=1e-5)


def test_loudness_counts_and_pitch_is_heard() -> None:
    loudest = [int(spectrogram(tone(hz, 1.0, RATE))[:90].mean(axis=0).argmax()) for hz in (200, 800, 3200, 7000)]
    assert loudest == sorted(set(loudest))
    loud, soft = (spectrogram(tone(440, 1.0, RATE) / divisor)[:90] for divisor in (1, 8))
    assert (loud > soft).all()
