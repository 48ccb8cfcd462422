"""The synthetic world as a data set: its tables are made from the seed, and its clips and its music are written beside them."""

from dataclasses import replace

from rayrec.config import WorldData, WorldMusic
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.synthetic.music import raw_music
from rayrec.datasets.synthetic.raw import raw_dataset
from rayrec.datasets.synthetic.world import make
from rayrec.workspace.stage import StageRun


def read(settings: WorldData, run: StageRun) -> RawDataset:
    """Make the world of the config's seed."""
    world, music = make(settings, run.config.seed), run.config.music
    raw = raw_dataset(world, "the synthetic world", run)
    if music is not None and isinstance(music.data, WorldMusic):
        return replace(raw, music=raw_music(world, music.data, run.config.seed, run))
    return raw


DATASET = Dataset(read, files=lambda settings: [])
