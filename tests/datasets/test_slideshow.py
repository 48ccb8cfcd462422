"""Clips of pictures and sounds that the tests make: each picture has a colour, and each sound a pitch, of its own."""

import io
import logging
import tarfile
import wave
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rayrec.config import SlideshowData
from rayrec.datasets.class_folders import PICTURES, SOUNDS, list_classes
from rayrec.datasets.slideshow import make
from rayrec.datasets.synthetic.slides import read_sound
from rayrec.tables import TableError
from rayrec.workspace.files import open_filesystem, read_whole
from rayrec.workspace.versions import Workspace, WorkspaceError

CLASSES = {"golden_retriever": "001 - Dog bark", "Rooster": "rooster", "ship": "sea waves"}
RATE = 16_000
ESC10 = Path(__file__).parents[2].parent / "shared" / "data" / "esc10" / "esc10_ogg.tar"


def hertz(kind: int, number: int) -> float:
    return 400 + 600 * kind + 50 * number


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Six pictures and four sounds of each class. A picture of class k is red, green or blue for k = 0, 1, 2."""
    for kind, (picture, sound) in enumerate(CLASSES.items()):
        for number in range(6):
            path = tmp_path / "pictures" / picture / f"{number}.{'png' if number % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((32, 40, 3), 20, np.uint8)
            pixels[:, :, kind] = 120 + 20 * number
            Image.fromarray(pixels).save(path)
        for number in range(4):
            path = tmp_path / "sounds" / sound / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            tone(path, hertz(kind, number), seconds=2)
    return tmp_path


def tone(path: Path, frequency: float, seconds: float) -> None:
    samples = 20_000 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def settings(folders: Path, **more: object) -> SlideshowData:
    small = {"videos": 36, "fps": 8, "users": 10, "days": 2, "requests": 40, "picture": 64, "folds": 2, "pictures_per_clip": 2}
    given = {"kind": "slideshow", "pictures": str(folders / "pictures"), "sounds": str(folders / "sounds")}
    return SlideshowData.model_validate(given | small | more)


def contents(uri: str) -> tuple[np.ndarray, np.ndarray]:
    with av.open(io.BytesIO(read_whole(*open_filesystem(uri)))) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return pictures, sound


def test_clips_show_and_play_their_class_and_folds_share_nothing(
    ingested: Callable[..., Workspace], folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        workspace = ingested(settings(folders))
    assert caplog.messages == []
    assert workspace.rejects("ingest").num_rows == 0
    assert workspace.read("interactions").num_rows == 400
    assert workspace.read("truth_clicks").num_rows == 400
    used: dict[tuple[str, int], set[int]] = {}
    pitches: dict[tuple[str, int], set[int]] = {}
    catalog = workspace.read("catalog").to_pylist()
    assert len(catalog) == 36
    assert workspace.read("truth_topics")["topic"].to_pylist() == [
        sorted(CLASSES).index(video["primary_class"]) for video in catalog
    ]
    for video in catalog:
        pictures, sound = contents(video["uri"])
        assert pictures.shape[1:] == (64, 64, 3)
        assert video["duration_s"] == pytest.approx(len(pictures) / 8)
        assert len(sound) / 22_050 == pytest.approx(video["duration_s"], abs=0.15)
        kind, place = list(CLASSES).index(video["primary_class"]), (video["primary_class"], video["fold"])
        colours = pictures.mean(axis=(1, 2))
        assert (colours.argmax(axis=1) == kind).all()
        numbers = np.round((colours[:, kind] - 120) / 20).astype(int)
        changes = np.flatnonzero(np.diff(numbers))
        assert len(changes) == 1  # two pictures, for half of the time each
        assert abs(changes[0] + 1 - len(pictures) / 2) <= 1
        used.setdefault(place, set()).update(numbers.tolist())
        spectrum = np.abs(np.fft.rfft(sound[2000:32_768]))
        heard = spectrum.argmax() * 22_050 / len(sound[2000:32_768])
        pitches.setdefault(place, set()).add(round((heard - hertz(kind, 0)) / 50))
    for name in CLASSES:
        assert used[name, 0] | used[name, 1] == set(range(6))
        assert used[name, 0] & used[name, 1] == set()
        assert pitches[name, 0] | pitches[name, 1] == set(range(4))
        assert pitches[name, 0] & pitches[name, 1] == set()


@pytest.mark.skipif(not ESC10.exists(), reason="the recordings of ESC-10 are not beside the checkout")
def test_parts_of_one_recording_stay_in_one_fold(tmp_path: Path) -> None:
    """The names of ESC-10's files begin with its own fold, which keeps the parts of a recording together."""
    with tarfile.open(ESC10) as archive:
        for member in archive:
            if member.name.startswith(("esc10/001", "esc10/002")):
                archive.extract(member, tmp_path, filter="data")
    sounds = list_classes(str(tmp_path / "esc10"), SOUNDS)
    folds = sounds.deal("001 - Dog bark", 5, 60, partial(read_sound, samples=1000), np.random.default_rng(1))
    assert [{Path(uri).name[0] for uri in fold} for fold in folds] == [{"1"}, {"2"}, {"3"}, {"4"}, {"5"}]
    assert [len(set(fold)) for fold in folds] == [8] * 5
    assert sounds.rejected[-1].num_rows == 0


def test_the_last_fold_of_a_class_has_its_newest_clips(folders: Path) -> None:
    world = world_of(settings(folders, videos=60, folds=3))
    videos = world.catalog.to_pandas()
    for _, members in videos.groupby("primary_class"):
        ordered = members.sort_values("published_at").fold
        assert ordered.is_monotonic_increasing
        assert ordered.value_counts().max() - ordered.value_counts().min() <= 1


def world_of(data: SlideshowData, seed: int = 7):  # noqa: ANN201
    return make(data, list_classes(data.pictures, PICTURES), list_classes(data.sounds, SOUNDS), seed)


def test_the_same_seed_and_files_make_the_same_clips(folders: Path) -> None:
    one, two, other = (world_of(settings(folders), seed) for seed in (1, 1, 2))
    assert one.catalog.equals(two.catalog)
    assert one.interactions.equals(two.interactions)
    assert one.clips == two.clips
    assert not one.catalog.equals(other.catalog)
    assert all(np.array_equal(*pair) for pair in zip(one.clips[0].pictures(), two.clips[0].pictures(), strict=True))


def test_words_tell_the_class_in_a_share_of_the_titles(folders: Path) -> None:
    def telling(column: str, **more: object) -> list[bool]:
        words = {"golden_retriever": {"golden", "retriever", "dog", "bark"}, "Rooster": {"rooster"}, "ship": {"boat", "mast"}}
        world = world_of(settings(folders, videos=100, words={"ship": ["boat", "mast"]}, **more))
        videos = world.catalog.to_pylist()
        found = []
        for video in videos:
            said = video[column].replace(",", "").split() if column == "title" else video[column]
            foreign = set().union(*(words[name] for name in words if name != video["primary_class"]))
            assert set(said).isdisjoint(foreign)
            found.append(not set(said).isdisjoint(words[video["primary_class"]]))
        return found

    assert 0.35 < np.mean(telling("title")) < 0.65
    assert 0.35 < np.mean(telling("tags")) < 0.65
    assert all(telling("title", described=1))
    assert not any(telling("tags", described=0))


def test_pictures_of_a_misleading_share_show_another_class(folders: Path) -> None:
    world = world_of(settings(folders, videos=300, misleading=0.2))
    classes = world.catalog["primary_class"].to_pylist()
    shown = [Path(clip.picture_uris[0]).parent.name for clip in world.clips]
    assert 0.1 < np.mean([one != other for one, other in zip(classes, shown, strict=True)]) < 0.3


def test_the_view_moves_over_large_and_long_pictures(folders: Path) -> None:
    rng = np.random.default_rng(1)
    for kind in CLASSES:
        for path in (folders / "pictures" / kind).iterdir():
            Image.fromarray(rng.integers(0, 255, (90, 1500, 3), dtype=np.uint8)).save(path)
    clip = world_of(settings(folders)).clips[0]
    pictures = [picture.astype(int) for picture in clip.pictures()]
    assert len(pictures) == clip.frames
    assert {picture.shape for picture in pictures} == {(64, 64, 3)}
    assert all(np.abs(one - other).mean() > 0.5 for one, other in pairwise(pictures[:10]))


def test_files_that_cannot_be_read_are_rejected_by_name(ingested: Callable[..., Workspace], folders: Path) -> None:
    (folders / "pictures" / "ship" / "1.png").write_bytes(b"no picture")
    whole = (folders / "pictures" / "ship" / "0.jpg").read_bytes()
    (folders / "pictures" / "ship" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (folders / "sounds" / "rooster" / "2.wav").write_bytes(b"")
    workspace = ingested(settings(folders))
    rejects = {
        Path(one["source"]).relative_to(folders).as_posix(): one["reason"] for one in workspace.rejects("ingest").to_pylist()
    }
    assert set(rejects) == {"pictures/ship/0.jpg", "pictures/ship/1.png", "sounds/rooster/2.wav"}
    assert rejects["pictures/ship/1.png"] == "the file can't be read (it is not a picture)"
    assert workspace.read("catalog").num_rows == 36
    with pytest.raises(WorkspaceError, match=r"pictures/ship/0\.jpg"):
        ingested(settings(folders), max_rejects=0, seed=8)


def test_a_folder_without_enough_for_its_folds_is_refused(folders: Path) -> None:
    with pytest.raises(TableError, match=r"sounds/001 - Dog bark: only 4 of the sounds can be used.*dataset.folds=5"):
        world_of(settings(folders, folds=5))
    for number in range(6):
        (folders / "pictures" / "ship" / f"{number}.{'png' if number % 2 else 'jpg'}").write_bytes(b"no picture")
    with pytest.raises(TableError, match=r"pictures/ship: only 0 of the pictures.*it is not a picture"):
        world_of(settings(folders))


def test_words_of_classes_that_are_not_there_are_refused(folders: Path) -> None:
    with pytest.raises(TableError, match=r"dataset.words: .* has no folder 'shp'; did you mean 'ship'"):
        world_of(settings(folders, words={"shp": ["boat"]}))
    with pytest.raises(TableError, match="'ship' has no words"):
        world_of(settings(folders, words={"ship": []}))
