"""The synthetic world as a data set: its tables are made from the seed, and its clips are written beside them."""

from rayrec.config import WorldData
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.synthetic.raw import raw_dataset
from rayrec.datasets.synthetic.world import make
from rayrec.workspace.stage import StageRun


def read(settings: WorldData, run: StageRun) -> RawDataset:
    """Make the world of the config's seed."""
    return raw_dataset(make(settings, run.config.seed), "the synthetic world", run)


DATASET = Dataset(read, files=lambda settings: [])
