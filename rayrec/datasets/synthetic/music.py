"""Music of a synthetic world: each track is a longer piece of the sound of a topic, and people rate it by how they like the topic.

A user's rating of a track is 3 + 1.1 z + .5 noise, rounded and cut to 1..5; z is the affinity of `choice.py` of the log's last day
to something of which picture, sound and words are of the track's topic, standardised over all users and tracks.
"""

import io

import av
import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.config import WorldMusic
from rayrec.datasets.dataset import RawMusic
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Source
from rayrec.datasets.synthetic.choice import MODALITIES
from rayrec.datasets.synthetic.simulation import World, random_of
from rayrec.datasets.synthetic.sounds import SAMPLE_RATE, SOUNDS, Sampler
from rayrec.datasets.synthetic.words import FILLERS, PACES, TOPICS
from rayrec.workspace.files import write_whole
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import join_uri

FOLDER = "music"  # of the sounds, in the version that the stage is making
ARTISTS = ("Blue Harbour", "Little Engine", "Paper Boats", "Sunday Market", "Tall Ships", "The Herons")


def raw_music(world: World, settings: WorldMusic, seed: int, run: StageRun) -> RawMusic:
    """Tracks and ratings of a world; the sounds are written as files beside its clips."""
    rng = random_of(seed, 8)
    topics = rng.permutation(np.arange(settings.tracks) % world.tastes.interest.shape[2])
    ids = np.array([f"t{number:0{len(str(settings.tracks - 1))}d}" for number in range(settings.tracks)], dtype=object)
    paces = rng.choice(list(PACES), settings.tracks)
    for number, (track, topic, pace) in enumerate(zip(ids, topics.tolist(), paces.tolist(), strict=True)):
        sound = _sound(topic, PACES[pace], settings.seconds, np.random.default_rng((seed, 9, number)))
        write_whole(run.fs, f"{run.folder}/{FOLDER}/{track}.m4a", _encoded(sound), temporary=".part")
    tracks = {
        "track_id": ids,
        "uri": [f"{FOLDER}/{track}.m4a" for track in ids],
        "title": [f"{rng.choice(FILLERS.split())} {TOPICS[topic].sound}".capitalize() for topic in topics],
        "artist": rng.choice(ARTISTS, settings.tracks),
        "tags": [[pace, TOPICS[topic].sound] for pace, topic in zip(paces.tolist(), topics, strict=True)],
    }
    return RawMusic(
        Source.of(SourceTable.of("the synthetic world's tracks", tables.from_columns("tracks", tracks))),
        Source.of(SourceTable.of("the synthetic world's ratings", _ratings(world, ids, topics, settings.ratings, rng))),
        media_root=join_uri(run.workspace.uri, f"{run.stage.name}/{run.version}"),
        rating_range=settings.rating_range,
    )


def _ratings(world: World, ids: np.ndarray, topics: np.ndarray, each: int, rng: np.random.Generator) -> pa.Table:
    """Of `each` tracks, or of all if there are fewer, by every user."""
    users, days, _ = world.tastes.interest.shape
    affinity = world.tastes.affinity(np.arange(users), days - 1, np.repeat(topics[:, None], len(MODALITIES), axis=1))
    z = (affinity - affinity.mean()) / affinity.std()
    points = np.clip(np.rint(3 + 1.1 * z + 0.5 * rng.standard_normal(z.shape)), 1, 5).astype(np.float32)
    rated = np.argsort(rng.uniform(size=z.shape), axis=1)[:, :each]
    user = np.repeat(np.arange(users), rated.shape[1])
    columns = {
        "user_id": world.users["user_id"].take(pa.array(user)),
        "track_id": ids[rated.ravel()],
        "rating": points[user, rated.ravel()],
    }
    return tables.from_columns("ratings", columns)


def _sound(topic: int, pace: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """float32 [samples] in -1..1"""
    sound = SOUNDS[TOPICS[topic].sound](Sampler(round(seconds * SAMPLE_RATE), pace, rng))
    return (0.8 * sound / np.abs(sound).max()).astype(np.float32)


def _encoded(sound: np.ndarray) -> bytes:
    """An m4a file with AAC."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        stream.bit_rate = 48_000
        samples = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
        samples.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    return file.getvalue()
