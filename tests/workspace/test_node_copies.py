"""Copies of files in a store: made once for all processes of a machine, whole, and only of the last versions."""

import hashlib
import threading
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from rayrec.workspace import node_copies
from rayrec.workspace.node_copies import KEPT, DamagedError, copied

FS = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())  # stands for a store: any file system but the plain local one


def bundle(folder: Path, text: bytes) -> dict[str, str]:
    """The digests of a bundle's files, which are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"items.arrow": text, "users.arrow": text * 1000}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_copies_are_made_once_and_again_when_they_are_damaged(tmp_path: Path) -> None:
    store = tmp_path / "publish" / "v1" / "bundle"
    digests = bundle(store, b"one")
    place = Path(copied(FS, str(store), digests, tmp_path / "copies"))
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {"items.arrow": b"one", "users.arrow": b"one" * 1000}
    (store / "items.arrow").unlink()  # the store is not asked again
    assert copied(FS, str(store), digests, tmp_path / "copies") == str(place)
    (place / "users.arrow").write_bytes(b"two" * 1000)
    copied(FS, str(store), digests, tmp_path / "copies")
    assert (place / "users.arrow").read_bytes() == b"one" * 1000
    assert place.parent.stat().st_mode & 0o077 == 0


def test_a_file_that_differs_in_the_store_leaves_no_copy(tmp_path: Path) -> None:
    store = tmp_path / "publish" / "v1" / "bundle"
    digests = bundle(store, b"one")
    bundle(store, b"two")
    with pytest.raises(DamagedError, match=r"v1/bundle/items\.arrow"):
        copied(FS, str(store), digests, tmp_path / "copies")
    assert list((tmp_path / "copies").rglob("*.arrow")) == []


def test_replicas_that_begin_at_once_copy_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "publish" / "v1" / "bundle"
    digests, made, copy = bundle(store, b"one"), list[str](), node_copies._copy

    def slowly(fs: pafs.FileSystem, path: str, place: str, digest: str) -> None:
        made.append(path)
        begun.wait(1)
        copy(fs, path, place, digest)

    begun = threading.Event()
    monkeypatch.setattr(node_copies, "_copy", slowly)
    threads = [threading.Thread(target=copied, args=(FS, str(store), digests, tmp_path / "copies")) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    assert sorted(made) == [f"{store}/items.arrow", f"{store}/users.arrow"]


def test_only_the_bundles_that_were_used_last_are_kept(tmp_path: Path) -> None:
    places = []
    for number in range(KEPT + 2):
        store = tmp_path / "publish" / f"v{number}" / "bundle"
        places.append(Path(copied(FS, str(store), bundle(store, b"%d" % number), tmp_path / "copies")))
        oldest = tmp_path / "publish" / "v0" / "bundle"  # which goes on being used
        copied(FS, str(oldest), bundle(oldest, b"0"), tmp_path / "copies")
    assert [place.exists() for place in places] == [True, *[False] * 2, *[True] * (KEPT - 1)]
