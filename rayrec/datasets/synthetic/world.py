"""Makes the tables of the synthetic world, and the descriptions of its clips.

Everything follows from the seed: the tables and the files of the clips byte for byte. People and their log are in `simulation.py`,
clips in `scenes.py` and `media.py`, and the topics with their words in `words.py`.

What a title says of colour, place and sound is true of its clip, also where its topic misleads.
"""

import numpy as np

from rayrec.config import WorldData
from rayrec.datasets.synthetic.choice import MODALITIES
from rayrec.datasets.synthetic.scenes import Scene
from rayrec.datasets.synthetic.simulation import Taxonomy, Videos, World, make_videos, random_of, with_people
from rayrec.datasets.synthetic.words import NOISE_TAGS, PACES, PLACES, PRIMARY, SECONDARY, TITLES, TOPICS, filled


def make(settings: WorldData, seed: int) -> World:
    """The world's tables, and the descriptions of its clips; `media.write_clips` makes their files."""
    taxonomy = taxonomy_of(settings)
    videos = make_videos(settings, taxonomy, seed)
    clips = _clips(videos, settings, seed)
    return with_people(settings, taxonomy, videos, _described(videos, clips, random_of(seed, 5)), clips, seed)


def taxonomy_of(settings: WorldData) -> Taxonomy:
    topics = np.arange(settings.topics)
    return Taxonomy(topics // 4, topics // 2, len(PRIMARY))


def _clips(videos: Videos, settings: WorldData, seed: int) -> list[Scene]:
    rng = random_of(seed, 7)
    clips = []
    for number, (name, (seen, heard, _), frames) in enumerate(
        zip(videos.ids, videos.stock.shown.tolist(), videos.frames.tolist(), strict=True)
    ):
        colour, place = str(rng.choice(TOPICS[seen].colours.split())), str(rng.choice(TOPICS[seen].places.split()))
        pace = str(rng.choice(list(PACES)))
        clips.append(Scene(name, seen, colour, place, heard, pace, frames, settings.fps, settings.picture, seed=(seed, 4, number)))
    return clips


def _described(videos: Videos, clips: list[Scene], rng: np.random.Generator) -> dict[str, object]:
    """Columns of the catalog."""
    spoken = videos.stock.shown[:, MODALITIES.index("words")]
    return {
        "title": [_title(topic, clip, rng) for topic, clip in zip(spoken, clips, strict=True)],
        "tags": [_tags(topic, rng) for topic in spoken],
        "primary_class": [PRIMARY[topic // 4] for topic in videos.topic],
        "secondary_class": [SECONDARY[topic // 2] for topic in videos.topic],
    }


def _title(topic: int, clip: Scene, rng: np.random.Generator) -> str:
    """Words of the topic, among words that any title may have and what is seen and heard."""
    pattern = filled(str(rng.choice(TITLES)), TOPICS[topic].words.split(), rng)
    return pattern.format(colour=clip.colour, place=PLACES[clip.place], pace=clip.pace, sound=TOPICS[clip.heard].sound)


def _tags(topic: int, rng: np.random.Generator) -> list[str]:
    """Two to six tags: most from the topic, some from the secondary class (its name, two words of the sibling), some noise."""
    own, sibling = TOPICS[topic].words.split()[:5], TOPICS[topic ^ 1].words.split()[:2]
    pools = (own, [SECONDARY[topic // 2], *sibling], NOISE_TAGS.split())
    wanted = rng.integers(2, 7)
    tags: dict[str, None] = {}
    while len(tags) < wanted:
        pool = pools[rng.choice(3, p=(0.6, 0.15, 0.25))]
        tags[str(rng.choice(pool))] = None
    return list(tags)
