"""Synthesises the sounds of the synthetic world, one function for each, under the names that `words.TOPICS` gives them."""

from collections.abc import Callable

import numpy as np

SAMPLE_RATE = 22_050  # Hz
PITCH_SD = 1.2  # semitones by which the same sound varies from clip to clip

Samples = np.ndarray  # float32 [samples]


class Sampler:
    """The parts that sounds are made of. Rates are beats a second at a pace of 1; all beats of a sound share one phase."""

    def __init__(self, samples: int, pace: float, rng: np.random.Generator) -> None:
        self.rng = rng
        self.time = (np.arange(samples) / SAMPLE_RATE).astype(np.float32)
        self.paced = self.time * np.float32(pace) + np.float32(rng.uniform())
        self.pitch = float(2 ** (rng.normal(0, PITCH_SD) / 12))

    def tone(self, hertz: Samples | float, overtones: int = 4, falloff: float = 1.2) -> Samples:
        """A tone that may glide. The loudness of its overtones falls by a power of their number."""
        cycles = np.cumsum(np.broadcast_to(hertz, self.time.shape), dtype=np.float64) * (self.pitch / SAMPLE_RATE)
        phase = (2 * np.pi * (cycles % 1)).astype(np.float32)
        loudness = np.arange(1, overtones + 1, dtype=np.float32) ** -falloff
        parts = (share * np.sin(number * phase) for number, share in enumerate(loudness / loudness.sum(), 1))
        return np.sum(list(parts), axis=0)

    def noise(self, low: float, high: float) -> Samples:
        """Noise between two frequencies (Hz)."""
        size = 1 << len(self.time).bit_length()
        spectrum = np.fft.rfft(self.rng.standard_normal(size))
        hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
        spectrum[(hertz < low * self.pitch) | (hertz > high * self.pitch)] = 0
        samples = np.fft.irfft(spectrum, size)[: len(self.time)]
        return (samples * (0.35 / samples.std())).astype(np.float32)

    def since_beat(self, rate: float, offset: float = 0) -> Samples:
        """The part of a beat, 0 to 1, that has passed since it began."""
        return (self.paced * np.float32(rate) + np.float32(offset)) % 1

    def strokes(self, rate: float, decay: float, offset: float = 0) -> Samples:
        """Loud at each beat, and then fading."""
        return np.exp(-np.float32(decay) * self.since_beat(rate, offset))

    def bursts(self, rate: float, decay: float) -> Samples:
        """Strokes of which some are much louder than others."""
        return self.strokes(rate, decay) * self.steps(rate, self.rng.uniform(size=1000) ** 2)

    def steps(self, rate: float, values: np.ndarray) -> Samples:
        """One value for each beat, and again from the first one after the last."""
        return np.asarray(values, np.float32)[(self.paced * np.float32(rate)).astype(int) % len(values)]

    def wave(self, rate: float, depth: float = 1) -> Samples:
        """Swelling and falling between 1 - depth and 1."""
        return 1 - np.float32(depth / 2) * (1 + np.cos(np.float32(2 * np.pi * rate) * self.paced))


def barking(s: Sampler) -> Samples:
    return (s.tone(550 - 250 * s.since_beat(2), 8, 0.5) + 0.4 * s.noise(400, 2000)) * s.strokes(2, 9)


def bells(s: Sampler) -> Samples:
    return (s.tone(2093, 1) + 0.7 * s.tone(2780, 1) + 0.5 * s.tone(4300, 1)) * s.strokes(1.4, 3)


def bubbling(s: Sampler) -> Samples:
    return s.tone(350 + 600 * s.since_beat(8), 1) * s.bursts(8, 5)


def chirping(s: Sampler) -> Samples:
    return s.tone(2800 + 1500 * s.since_beat(5), 2) * s.bursts(5, 4)


def chugging(s: Sampler) -> Samples:
    return s.noise(200, 3000) * s.strokes(4, 7) + 0.3 * s.tone(90)


def drums(s: Sampler) -> Samples:
    return s.tone(60 + 120 * s.strokes(2, 20), 1) * s.strokes(2, 8) + 0.6 * s.noise(1500, 8000) * s.strokes(2, 12, offset=0.5)


def guitar(s: Sampler) -> Samples:
    return s.tone(s.steps(3, np.array([196, 247, 294, 392, 294, 247])), 6) * s.strokes(3, 4)


def gulls(s: Sampler) -> Samples:
    return s.tone(1400 - 500 * s.since_beat(1.4), 4, 0.8) * s.bursts(1.4, 3) + 0.15 * s.noise(100, 2000)


def humpback_song(s: Sampler) -> Samples:
    return s.tone(200 + 250 * s.wave(0.4), 3, 1.5) * s.wave(0.9, 0.8)


def purring(s: Sampler) -> Samples:
    return s.noise(60, 500) * np.abs(np.sin(np.float32(72) * s.time)) * s.wave(1.2, 0.6)


def synth(s: Sampler) -> Samples:
    return s.tone(s.steps(6, np.array([110, 165, 220, 330, 440, 330, 220, 165])), 9, 0.7) * s.strokes(6, 2)


def thwacks(s: Sampler) -> Samples:
    return (s.tone(750, 3) + s.noise(1000, 4000)) * s.strokes(1.6, 30)


def violin(s: Sampler) -> Samples:
    vibrato = 1 + 0.01 * np.sin(np.float32(35) * s.time)
    return s.tone(s.steps(1.2, np.array([440, 494, 587, 659])) * vibrato, 10, 1) * s.wave(1.2, 0.4)


SOUNDS: dict[str, Callable[[Sampler], Samples]] = {
    "barking": barking,
    "bells": bells,
    "bubbling": bubbling,
    "chatter": lambda s: s.noise(250, 2000) * s.bursts(4.5, 2),
    "cheering": lambda s: s.noise(500, 3500) * s.wave(0.5, 0.7),
    "chirping": chirping,
    "chugging": chugging,
    "clicking": lambda s: s.noise(5000, 10_500) * s.strokes(4.5, 45),
    "crackling": lambda s: s.noise(2000, 9000) * s.bursts(14, 25),
    "drums": drums,
    "guitar": guitar,
    "gulls": gulls,
    "humming": lambda s: s.tone(105, 5) * s.wave(0.9, 0.5),
    "humpback song": humpback_song,
    "purring": purring,
    "rumbling": lambda s: s.noise(50, 500) * (0.4 + 0.6 * s.strokes(5, 6)),
    "sawing": lambda s: s.noise(900, 6000) * s.wave(2),
    "sizzling": lambda s: s.noise(4000, 10_500) * s.wave(6, 0.3),
    "surf": lambda s: s.noise(100, 3000) * s.wave(0.35, 0.95),
    "synth": synth,
    "thwacks": thwacks,
    "violin": violin,
    "whirring": lambda s: s.tone(180 + 10 * s.wave(1.5), 8, 0.5) * s.wave(1.5, 0.4),
    "wind": lambda s: s.noise(150, 700) * s.wave(0.5, 0.8),
}
