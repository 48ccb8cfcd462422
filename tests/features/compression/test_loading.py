"""From the config to a compressed extractor to the table of features, and files that don't fit."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.config import Compression, ConfigError, Features, ImageFeatures
from rayrec.features.compression import fitting, loading
from rayrec.features.compression.fitting import Place, outputs
from rayrec.features.compression.report import report
from rayrec.features.image import image_network
from rayrec.features.networks import FeatureNetwork
from rayrec.features.origins import networks_in_words
from tests.features.clips import write_clip
from tests.features.compression.pictures import IMAGE, SETTINGS, task
from tests.features.every_model import check

QUICK = SETTINGS.model_copy(update={"epochs": 0, "sharing_epochs": 0, "keep": 0.5, "clusters": 16})


@pytest.fixture(scope="module")
def made() -> tuple[FeatureNetwork, bytes]:
    """The compressed network, before it is packed, and the file."""
    job = task(QUICK, image_network(IMAGE, 7))
    network = copy.deepcopy(job.original)
    fitting.pruned(network, fitting.kept_shares(network, job), job, Place())
    fitting.shared(network, job, Place())
    return network, loading.packed(network, IMAGE, "with RANDOM weights", torch.from_numpy(job.train.pixels).split(16))


@pytest.fixture
def file(made: tuple[FeatureNetwork, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "network.rrz"
    path.write_bytes(made[1])
    return path


def painted(level: int, frame: int, frames: int) -> np.ndarray:
    picture = np.full((48, 64, 3), level, np.uint8)
    picture[::4] += np.uint8(5 * frame)
    return picture


def settings(file: Path, int8: bool = False, **changes: object) -> ImageFeatures:
    return IMAGE.model_copy(update={"compression": Compression(file=str(file), int8=int8), "weights": "DEFAULT"} | changes)


def test_the_loaded_network_is_the_one_that_was_made(made: tuple[FeatureNetwork, bytes], file: Path) -> None:
    network, data = made
    loaded = image_network(settings(file), seed=99)
    shared, plain = fitting.contents(network)
    state = loaded.body.state_dict()
    for name, weights in shared.items():
        assert state[name].contiguous().numpy().tobytes() == weights.dense().tobytes()
    for name, array in plain.items():
        assert np.array_equal(state[name].numpy(), array.astype(np.float16).astype(np.float32))
    assert 12 < loading.file.read_facts(data)["original_bytes"] / len(data) < 18
    held_out = task().held_out
    assert torch.allclose(outputs(loaded, held_out), outputs(network, held_out), rtol=0.02, atol=0.02)
    found = report(image_network(IMAGE, 7), data, held_out)
    assert found["quality"]["int8"]["distortion"] == pytest.approx(found["quality"]["float32"]["distortion"], rel=0.05)
    assert sum(row["bytes"] for row in found["layers"]) < len(data)
    assert {round(row["kept"], 2) for row in found["layers"]} == {0.5}


@pytest.mark.parametrize("int8", [False, True])
def test_extract_uses_it_and_says_so(file: Path, tmp_path: Path, int8: bool) -> None:
    features = Features(image=settings(file, int8, frames=3), motion=None, audio=None)
    paths = [write_clip(tmp_path / f"{level}.mp4", frames=6, paint=partial(painted, level)) for level in (40, 120, 200)]
    names, nothing = [path.stem for path in paths], pa.nulls(3, pa.string())
    rows = pa.table({"video_id": names, "uri": list(map(str, paths)), "title": nothing, "file_version": names})
    check(rows, features, "image", 512)
    kernels = ", int8" if int8 else ""
    assert networks_in_words(features).startswith("image and cover: squeezenet1_1, pooled, compressed 1")
    assert f"x, from with RANDOM weights{kernels} ({file}); motion: none" in networks_in_words(features)


def test_int8_is_near_the_float_form(file: Path) -> None:
    held_out = task().held_out
    slow, fast = (outputs(image_network(settings(file, int8), 7), held_out) for int8 in (False, True))
    assert 0 < fitting.distortion(fast, slow) < 0.05


def test_files_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    for changes, reason in (
        ({"model": "squeezenet1_0"}, "made for features.image.model=squeezenet1_1, not for squeezenet1_0"),
        ({"output": "logits"}, "made for features.image.output=pooled, not for logits"),
        ({"size": 64}, "made for features.image.size=32, not for 64"),
    ):
        with pytest.raises(ConfigError, match=rf"features\.image\.compression\.file=.*{reason}"):
            image_network(settings(file, **changes), seed=7)
    cut = tmp_path / "cut.rrz"
    cut.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"cut\.rrz: it is damaged or cut off .*`rayrec compress CONFIG`"):
        image_network(settings(cut), seed=7)
    with pytest.raises(ConfigError, match=r"missing\.rrz.*no such file"):
        image_network(settings(tmp_path / "missing.rrz"), seed=7)
    with pytest.raises(ValueError, match=r"must end with \.rrz"):
        Compression(file="network.bin")
