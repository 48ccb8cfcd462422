"""What a data set is to the stage `ingest`, and how the module of each kind is found.

The kind of a data set is the name of its module: `dataset.kind: movielens` is read by `rayrec/datasets/movielens.py`, which ends
with `DATASET = Dataset(...)`. Only the module of the kind that the config names is imported.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayrec.config import ClickRule, Section
from rayrec.datasets.source import Source
from rayrec.workspace.stage import StageRun


@dataclass(frozen=True)
class RawMusic:
    """Tracks and their ratings, in the form of `RawDataset`."""

    tracks: Source
    ratings: Source
    media_root: str = ""
    confined: bool = False
    rating_range: tuple[float, float] | None = None  # the lowest and the highest rating that users can give


@dataclass
class RawDataset:
    """The tables of a data set as its reader returns them: in our columns and types, but not yet screened."""

    catalog: Source
    interactions: Source
    users: Source | None = None
    music: RawMusic | None = None
    media_root: str = ""  # the folder that relative uris start from; not needed where the catalog has none
    confined: bool = False  # reject uris that are not relative to `media_root`
    click_rule: ClickRule | None = None  # of impressions that don't say whether they were clicked
    truth: Mapping[str, pa.Table] = field(default_factory=dict)  # only a synthetic world knows it


@dataclass(frozen=True)
class Dataset:
    """One kind of data set.

    `read(settings, run)` returns its tables; it may write media into the version that `run` is making, and raises `TableError` when
    a file can't be read at all. `files(settings)` lists the files and folders (not the media) whose change must redo the stage.
    `settings` is the section of the config that has this kind.
    """

    read: Callable[[Any, StageRun], RawDataset]
    files: Callable[[Any], list[str]]


def dataset_of(settings: Section) -> Dataset:
    """The data set that a `dataset` section of the config describes."""
    kind = settings.model_dump(include={"kind"})["kind"]
    dataset = importlib.import_module(f"rayrec.datasets.{kind}").DATASET
    assert isinstance(dataset, Dataset)
    return dataset
