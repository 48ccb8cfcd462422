"""Folders of pictures or sounds, in which each class has a subfolder."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from rayrec import tables
from rayrec.datasets.reading import is_hidden, warn_of_others
from rayrec.datasets.screening import STAGE
from rayrec.errors import did_you_mean
from rayrec.tables import TEXT, TableError
from rayrec.workspace.listing import list_folder, list_subfolders
from rayrec.workspace.stores import join_uri

READ_AT_ONCE = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """What the files are: `pictures` or `sounds`, also the key of the config that names their folder, and how their names end."""

    name: str
    endings: tuple[str, ...]


PICTURES = Kind("pictures", (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif", ".tif", ".tiff"))
SOUNDS = Kind("sounds", (".wav", ".ogg", ".oga", ".mp3", ".flac", ".opus", ".m4a", ".aac", ".aif", ".aiff"))


@dataclass
class ClassFolders:
    """The files of each class by their URIs, sorted, and the files of which none can be used, as tables of `rejects`."""

    folder: str
    kind: Kind
    files: dict[str, list[str]]
    rejected: list[pa.Table] = field(default_factory=list)

    def deal(self, name: str, folds: int, wanted: int, read: Callable[[str], object], rng: np.random.Generator) -> list[list[str]]:
        """About as many files of a class as are wanted, in folds that share none, each in random order.

        A fold has files that follow one another in the order of names, because neighbours are often parts of one recording, or
        pictures of one scene. Every file is read, and rejected if it can't be. Raises `TableError` if a fold gets none.
        """
        chosen = sorted(rng.permutation(self.files[name]).tolist()[: max(wanted, folds)])
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            faults = list(pool.map(lambda uri: _fault(read, uri), chosen))
        bad = {uri: fault for uri, fault in zip(chosen, faults, strict=True) if fault is not None}
        self.rejected.append(_rejects(bad))
        good = [uri for uri in chosen if uri not in bad]
        if len(good) < folds:
            first = "".join(f"; {uri}: {fault}" for uri, fault in list(bad.items())[:1])
            raise TableError(
                f"{join_uri(self.folder, name)}: only {len(good)} of the {self.kind.name} can be used, and each of "
                f"dataset.folds={folds} needs one; add {self.kind.name}, or lower `dataset.folds`{first}"
            )
        return [rng.permutation(part).tolist() for part in np.array_split(good, folds)]


def list_classes(folder: str, kind: Kind) -> ClassFolders:
    """The classes of a folder, in the order of their names; hidden files are left out.

    Raises `TableError` for a folder that is not there or has fewer than two classes, and for a class without files.
    """
    option = f"set `dataset.{kind.name}` to a folder that has a subfolder of {kind.name} for each class"
    listing = list_folder(folder)
    if listing is None:
        raise TableError(f"{folder}: there is no such folder; {option}")
    shown = [name for name in listing.names if not is_hidden(name)]
    right = [name for name in shown if PurePosixPath(name).suffix.lower() in kind.endings]
    warn_of_others(folder, set(shown) - set(right), kind.name)
    if loose := sum("/" not in name for name in right):
        log.warning("%s: %s outside the subfolders of the classes are left out: %d", folder, kind.name, loose)
    files: dict[str, list[str]] = {name: [] for name in list_subfolders(folder) if not is_hidden(name)}
    for path in right:
        if "/" in path:
            files[path.split("/")[0]].append(join_uri(folder, path))
    for name, found in files.items():
        if not found:
            raise TableError(
                f"{join_uri(folder, name)}: the folder contains no {kind.name} ({', '.join(kind.endings)}); add some, or remove it"
            )
    if len(files) < 2:
        few = f"only {next(iter(files))!r} is there" if files else "there is none"
        raise TableError(f"{folder}: {kind.name} of at least two classes are needed, and {few}; {option}")
    unreadable = dict.fromkeys(listing.unreadable, "the name is not UTF-8; rename the file")
    return ClassFolders(folder, kind, files, [_rejects(unreadable)])


def paired(pictures: ClassFolders, sounds: ClassFolders, given: Mapping[str, str]) -> dict[str, str]:
    """The class of sounds for each class of pictures: as given, or by equal words, or else the next one in the order of names.

    Raises `TableError` for a given class that is not there, and for classes of pictures that are left without sounds.
    """
    for picture, sound in given.items():
        for name, known in ((picture, pictures), (sound, sounds)):
            if name not in known.files:
                near = did_you_mean(name, known.files)
                raise TableError(f"dataset.sound_classes: {known.folder} has no folder {name!r}{near}")
    pairs = dict(given)
    by_words = {tuple(words_of(name)): name for name in sounds.files}
    for name in pictures.files:
        if name not in pairs and (same := by_words.get(tuple(words_of(name)))):
            pairs[name] = same
    lonely = [name for name in pictures.files if name not in pairs]
    free = [name for name in sounds.files if name not in pairs.values()]
    if len(free) < len(lonely):
        raise TableError(
            f"{sounds.folder}: there are no sounds for the pictures of {', '.join(lonely[len(free) :])}; add a folder for each "
            "class, or name one under `dataset.sound_classes`"
        )
    if unused := free[len(lonely) :]:
        log.warning("%s: no class of pictures is paired with the sounds of %s", sounds.folder, ", ".join(unused))
    return pairs | dict(zip(lonely, free, strict=False))


def words_of(name: str) -> list[str]:
    """The words in the name of a folder, without digits and marks: `001 - Dog bark` has dog and bark."""
    return re.findall(r"[^\W\d_]+", name.lower()) or [name]


def _fault(read: Callable[[str], object], uri: str) -> str | None:
    try:
        read(uri)
    except Exception as error:  # readers of damaged files, and stores, raise errors of every kind
        return f"the file can't be read ({str(error) or type(error).__name__})"
    return None


def _rejects(faults: Mapping[str, str]) -> pa.Table:
    """The table `rejects` of files and what is wrong with them."""
    columns: dict[str, Sequence[str]] = {"stage": [STAGE] * len(faults), "source": list(faults), "reason": list(faults.values())}
    return tables.conform("rejects", pa.table({name: pa.array(values, TEXT) for name, values in columns.items()}))
