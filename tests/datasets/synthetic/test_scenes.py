"""Titles of the synthetic world against what its clips show and play."""

from dataclasses import replace

import numpy as np
import pytest

from rayrec.config import WorldData
from rayrec.datasets.synthetic.backdrops import BACKDROPS
from rayrec.datasets.synthetic.scenes import COLOURS, SIZES, Scene
from rayrec.datasets.synthetic.sounds import SAMPLE_RATE, SOUNDS
from rayrec.datasets.synthetic.subjects import SUBJECTS
from rayrec.datasets.synthetic.words import PACES, PLACES, PRIMARY, SECONDARY, TOPICS
from rayrec.datasets.synthetic.world import make

CLICKING = 20  # a topic with a beat that is easy to measure: 4.5 clicks a second
CLIP = Scene("v", seen=8, colour="brown", place="beach", heard=CLICKING, pace="slow", frames=48, fps=12, side=128, seed=(7, 4, 0))


def first_picture(clip: Scene) -> np.ndarray:
    return next(clip.pictures()).astype(int)


def nearest_colour(picture: np.ndarray) -> np.ndarray:
    """The name of the colour that is nearest to each pixel."""
    names = np.array(list(COLOURS))
    distances = np.abs(picture[:, :, None] - np.array(list(COLOURS.values()))).sum(axis=-1)
    return names[distances.argmin(axis=-1)]


def test_topics_share_no_word_and_name_what_can_be_drawn_and_played() -> None:
    words = [word for topic in TOPICS for word in topic.words.split()]
    assert len(words) == len(set(words)) == 24 * 8
    assert len(SUBJECTS) == len(TOPICS) == 2 * len(SECONDARY) == 4 * len(PRIMARY)
    assert {place for topic in TOPICS for place in topic.places.split()} == set(PLACES) == set(BACKDROPS)
    assert {colour for topic in TOPICS for colour in topic.colours.split()} == set(COLOURS)
    assert sorted(topic.sound for topic in TOPICS) == sorted(SOUNDS)


def test_titles_say_what_is_seen_and_heard() -> None:
    world = make(WorldData(videos=300, users=10, requests=20, days=2), seed=3)
    said = dict.fromkeys(("colour", "place", "pace"), 0)
    for title, clip in zip(world.catalog["title"].to_pylist(), world.clips, strict=True):
        for colour in set(title.split()) & set(COLOURS):
            assert colour == clip.colour
            said["colour"] += 1
        for place, phrase in PLACES.items():
            if title.endswith(phrase):
                assert place == clip.place
                said["place"] += 1
        for pace in PACES:
            if f" {pace} " in title:
                assert title.endswith(f"{pace} {TOPICS[clip.heard].sound}")
                assert pace == clip.pace
                said["pace"] += 1
    assert min(said.values()) > 30


@pytest.mark.parametrize("seen", range(24))
def test_the_thing_has_its_colour(seen: int) -> None:
    for colour, other in (("red", "green"), ("green", "red")):
        shares = [
            np.mean(nearest_colour(first_picture(replace(CLIP, seen=seen, colour=drawn, place="studio"))) == colour)
            for drawn in (colour, other)
        ]
        assert shares[0] > shares[1] + 0.01


def test_places_and_things_differ_and_things_move() -> None:
    pictures = [picture.astype(int) for picture in CLIP.pictures()]
    assert len(pictures) == 48
    assert pictures[0].shape == (128, 128, 3)
    assert np.abs(pictures[0] - pictures[6]).mean() > 1
    assert np.array_equal(first_picture(replace(CLIP, name="w")), pictures[0])
    places = [first_picture(replace(CLIP, place=place)) for place in PLACES]
    things = [first_picture(replace(CLIP, seen=seen)) for seen in range(24)]
    for several in (places, things):
        assert min(np.abs(one - other).mean() for number, one in enumerate(several) for other in several[:number]) > 3


def test_a_clip_may_be_of_any_size() -> None:
    small, large = (first_picture(replace(CLIP, side=side)) for side in (64, 256))
    assert large.shape == (256, 256, 3)
    blocks = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(blocks - small).mean() < 12
    assert 0.3 < SIZES[0] < SIZES[1] < 1


def test_a_quick_sound_beats_faster_than_a_slow_one() -> None:
    for pace, factor in PACES.items():
        sound = replace(CLIP, pace=pace).sound()
        assert len(sound) == 4 * SAMPLE_RATE
        assert 0.1 < np.abs(sound).max() <= 0.9
        loudness = np.abs(sound[: len(sound) // 450 * 450]).reshape(-1, 450).mean(axis=1)  # 49 a second
        strength = np.abs(np.fft.rfft(loudness - loudness.mean()))
        beats = np.flatnonzero(strength > 0.5 * strength.max())[0] / 4  # the first of the overtones of the beat
        assert 4.5 * factor * 0.8 < beats < 4.5 * factor * 1.2


def test_the_sounds_of_all_topics_differ() -> None:
    """The nearest of the other clips' sounds, by the loudness of their bands and its changes, is mostly of the same topic."""
    clips = [replace(CLIP, heard=topic, seed=(9, topic, run)) for topic in range(24) for run in range(4)]
    vectors = np.stack([fingerprint(clip.sound()) for clip in clips])
    vectors = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=-1) + 1e9 * np.eye(len(clips))
    topics = np.array([clip.heard for clip in clips])
    assert np.mean(topics[distances.argmin(axis=1)] == topics) > 0.75


def fingerprint(sound: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of the log energy in 16 bands."""
    windows = sound[: len(sound) // 1024 * 1024].reshape(-1, 1024)
    energies = (np.abs(np.fft.rfft(windows * np.hanning(1024))) ** 2)[:, 1:]
    edges = np.unique(np.geomspace(1, energies.shape[1], 17).astype(int)) - 1
    bands = np.log(np.add.reduceat(energies, edges[:-1], axis=1) + 1e-4)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])
