"""Short clips of the user's own pictures and sounds, with a log of simulated people who choose among them.

The pictures and the sounds of a class are in a folder of its name. A clip is a slow pan over a few pictures of its class, with a
sound of the class and, in a part of the titles and tags, words of the class. People and log are those of `synthetic/simulation.py`,
where the classes are the topics.

Pictures and sounds are dealt into folds, and a clip is made from those of one fold, the column `fold` of the catalog. So clips of
different folds have nothing in common but their class, and whoever learns from some folds can be tested on others. In each class
the last fold has the newest clips.
"""

from collections import Counter
from functools import partial
from itertools import cycle, islice

import numpy as np
import pyarrow as pa

from rayrec.config import SlideshowData
from rayrec.datasets.class_folders import PICTURES, SOUNDS, ClassFolders, list_classes, paired, words_of
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.synthetic.choice import MODALITIES
from rayrec.datasets.synthetic.raw import raw_dataset
from rayrec.datasets.synthetic.simulation import Taxonomy, Videos, World, make_videos, random_of, with_people
from rayrec.datasets.synthetic.slides import Slides, read_picture, read_sound
from rayrec.datasets.synthetic.sounds import SAMPLE_RATE
from rayrec.datasets.synthetic.words import NOISE_TAGS, filled
from rayrec.errors import did_you_mean
from rayrec.tables import TableError
from rayrec.workspace.stage import StageRun

DESCRIBED_TITLES = ("{f} {w}", "my {f} {w}", "{w} on a {f} day", "{f} {f} {w}", "{w} and {w}", "{f} {w}, {f} {w}")
OTHER_TITLES = ("{f} {f} day", "my {f} clip", "a {f} one", "{f}, {f}, {f}")

Pools = list[list[list[str]]]  # the URIs of the files in each fold of each class


def read(settings: SlideshowData, run: StageRun) -> RawDataset:
    """Make the clips. Raises `TableError` for folders from which none can be made."""
    pictures, sounds = list_classes(settings.pictures, PICTURES), list_classes(settings.sounds, SOUNDS)
    world = make(settings, pictures, sounds, run.config.seed)
    return raw_dataset(world, "the slideshow", run, [*pictures.rejected, *sounds.rejected])


def make(settings: SlideshowData, pictures: ClassFolders, sounds: ClassFolders, seed: int) -> World:
    """The tables, and the descriptions of the clips. Everything follows from the seed and the files."""
    names, pairs = list(pictures.files), paired(pictures, sounds, settings.sound_classes)
    words = _words(settings, pictures, pairs)
    classes = np.arange(len(names))
    taxonomy = Taxonomy(classes, classes, len(classes))
    videos = make_videos(settings, taxonomy, seed)
    folds = _folds(videos, settings.folds)
    clips = _clips(settings, videos, folds, _pools(settings, videos, pictures, sounds, pairs, seed), seed)
    spoken = [words[names[topic]] for topic in videos.stock.shown[:, MODALITIES.index("words")]]
    rng = random_of(seed, 5)
    described: dict[str, object] = {
        "title": [_title(each, settings.described, rng) for each in spoken],
        "tags": [_tags(each, settings.described, rng) for each in spoken],
        "primary_class": [names[topic] for topic in videos.topic],
        "fold": pa.array(folds, pa.int64()),
    }
    return with_people(settings, taxonomy, videos, described, clips, seed)


def _words(settings: SlideshowData, pictures: ClassFolders, pairs: dict[str, str]) -> dict[str, list[str]]:
    """The words of each class."""
    for name, words in settings.words.items():
        if name not in pairs:
            raise TableError(f"dataset.words: {pictures.folder} has no folder {name!r}{did_you_mean(name, pairs)}")
        if not words:
            raise TableError(f"dataset.words: {name!r} has no words; add some, or remove it")
    from_names = {name: list(dict.fromkeys(words_of(name) + words_of(sound))) for name, sound in pairs.items()}
    return from_names | settings.words


def _folds(videos: Videos, folds: int) -> np.ndarray:
    """The fold of each video: equal parts of each class in the order of publication."""
    found = np.zeros(len(videos.topic), dtype=np.int64)
    for topic in np.unique(videos.topic):
        members = np.flatnonzero(videos.topic == topic)
        members = members[np.argsort(videos.stock.published_ms[members], kind="stable")]
        found[members] = np.arange(len(members)) * folds // len(members)
    return found


def _pools(
    settings: SlideshowData, videos: Videos, pictures: ClassFolders, sounds: ClassFolders, pairs: dict[str, str], seed: int
) -> tuple[Pools, Pools]:
    """The pictures and the sounds of each class of pictures. Classes that share a class of sounds share its folds."""
    rng = random_of(seed, 8)
    shown = Counter(videos.stock.shown[:, MODALITIES.index("picture")].tolist())
    read = partial(read_picture, short_side=settings.picture)
    seen = [
        pictures.deal(name, settings.folds, shown[topic] * settings.pictures_per_clip, read, rng)
        for topic, name in enumerate(pictures.files)
    ]
    wanted: Counter[str] = Counter()
    for topic, name in enumerate(pictures.files):
        wanted[pairs[name]] += int((videos.stock.shown[:, MODALITIES.index("sound")] == topic).sum())
    listen = partial(read_sound, samples=SAMPLE_RATE)
    heard = {name: sounds.deal(name, settings.folds, wanted[name], listen, rng) for name in sorted(wanted)}
    return seen, [heard[pairs[name]] for name in pictures.files]


def _clips(settings: SlideshowData, videos: Videos, folds: np.ndarray, pools: tuple[Pools, Pools], seed: int) -> list[Slides]:
    """The files of a fold are used in turn, so that a file is used again only when all others of its fold have been used."""
    pictures, sounds = ([[cycle(files) for files in folds_of] for folds_of in pool] for pool in pools)
    clips = []
    each = zip(videos.ids, videos.stock.shown.tolist(), folds.tolist(), videos.frames.tolist(), strict=True)
    for number, (name, (seen, heard, _), fold, frames) in enumerate(each):
        few = min(settings.pictures_per_clip, len(pools[0][seen][fold]))
        shown = tuple(islice(pictures[seen][fold], few))
        clips.append(Slides(name, shown, next(sounds[heard][fold]), frames, settings.fps, settings.picture, (seed, 4, number)))
    return clips


def _title(words: list[str], described: float, rng: np.random.Generator) -> str:
    patterns = DESCRIBED_TITLES if rng.uniform() < described else OTHER_TITLES
    return filled(str(rng.choice(patterns)), words, rng)


def _tags(words: list[str], described: float, rng: np.random.Generator) -> list[str]:
    """One to three tags that say nothing, and in a share of the lists one to three words of the class."""
    own: list[str] = rng.permutation(words)[: rng.integers(1, 4)].tolist() if rng.uniform() < described else []
    return own + rng.choice(NOISE_TAGS.split(), rng.integers(1, 4), replace=False).tolist()


DATASET = Dataset(read, files=lambda settings: [settings.pictures, settings.sounds])
