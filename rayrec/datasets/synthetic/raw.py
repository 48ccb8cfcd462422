"""A world as the raw tables of a data set, with its clips as files beside them."""

from collections.abc import Sequence

import pyarrow as pa

from rayrec.datasets.dataset import RawDataset
from rayrec.datasets.screening import SourceTable
from rayrec.datasets.source import Source
from rayrec.datasets.synthetic.media import write_clips
from rayrec.datasets.synthetic.simulation import MEDIA, World
from rayrec.workspace.stage import StageRun
from rayrec.workspace.stores import join_uri


def raw_dataset(world: World, name: str, run: StageRun, rejected: Sequence[pa.Table] = ()) -> RawDataset:
    """The tables of a world that is called by `name`; its clips go into the folder MEDIA of the version that the stage is making.

    `rejected` has tables of `rejects`: files from which no clip could be made.
    """
    write_clips(world.clips, run.fs, f"{run.folder}/{MEDIA}")
    catalog = SourceTable.of(f"{name}'s catalog", world.catalog)
    catalog.rejected.extend(rejected)
    return RawDataset(
        Source.of(catalog),
        Source.of(SourceTable.of(f"{name}'s interactions", world.interactions)),
        Source.of(SourceTable.of(f"{name}'s users", world.users)),
        media_root=join_uri(run.workspace.uri, f"{run.stage.name}/{run.version}"),
        truth=world.truth,
    )
