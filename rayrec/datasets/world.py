"""The synthetic world as a data set: its tables are made from the seed, and its clips are written beside them."""

from rayrec.config import WorldData
from rayrec.datasets.dataset import Dataset, RawDataset
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Source
from rayrec.datasets.synthetic.media import write_clips
from rayrec.datasets.synthetic.simulation import MEDIA
from rayrec.datasets.synthetic.world import make
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import join_uri


def read(settings: WorldData, run: StageRun) -> RawDataset:
    """Make the world of the config's seed; its clips go into the folder `media` of the version that the stage is making."""
    world = make(settings, run.config.seed)
    write_clips(world.clips, run.fs, f"{run.folder}/{MEDIA}")
    return RawDataset(
        Source.of(SourceTable.of("the synthetic world's catalog", world.catalog)),
        Source.of(SourceTable.of("the synthetic world's interactions", world.interactions)),
        Source.of(SourceTable.of("the synthetic world's users", world.users)),
        media_root=join_uri(run.workspace.uri, f"{run.stage.name}/{run.version}"),
        truth=world.truth,
    )


DATASET = Dataset(read, files=lambda settings: [])
