"""YAMNet is held to TensorFlow Lite: self-made networks, and the trained one on real clips where its file is at hand."""

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import torch

from rayrec.config import AudioFeatures, ConfigError, Features
from rayrec.features.media.decode import decode
from rayrec.features.rows import decode_rows, load_networks, network_rows, resolved
from rayrec.features.yamnet.conversion import converted
from rayrec.features.yamnet.network import YAMNet, sound_features, yamnet
from rayrec.features.yamnet.spectrogram import patches, spectrogram
from tests.features.yamnet.tiny import BLOCKS, STEM, random_state, tiny_yamnet

TRAINED = Path(__file__).parents[3].parent / "shared" / "data" / "weights" / "yamnet_spectra_in.tflite"
MEAN = 90  # the tensor of the trained file that is the input of its classifier
# The clip -> the class of AudioSet that is heard most in it: 68 domestic animals, 0 speech.
HEARD = {"3qesirWAGt4_20000_30000": 68, "v_GGSY1Qvo990": 0}
SMALL_RANDOM = np.random.default_rng(5).normal(-2, 2, (20, 96, 64)).astype(np.float32)


def interpreted(data: bytes, inputs: np.ndarray, tensor: int | None = None) -> np.ndarray:
    """What TensorFlow Lite says of each patch; of a tensor inside the network, as it is stored."""
    interpreter = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="ai-edge-litert is not installed: YAMNet is NOT held to TensorFlow Lite"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tensors`", UserWarning)
        lite = interpreter.Interpreter(model_content=data, experimental_preserve_all_tensors=tensor is not None)
    lite.allocate_tensors()
    place, answer = lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"]
    found = []
    for patch in inputs:
        lite.set_tensor(place, np.ascontiguousarray(patch[None]))
        lite.invoke()
        found.append(lite.get_tensor(answer if tensor is None else tensor).ravel())
    return np.stack(found)


def tiny(data: bytes, output: str = "scores") -> YAMNet:
    state = {name: torch.from_numpy(value) for name, value in converted(data).items()}
    return YAMNet(state, output, BLOCKS, STEM).eval()


@pytest.mark.parametrize("activation", [1, 3])
@pytest.mark.parametrize("quantised", [True, False])
def test_self_made_networks_equal_tensorflow_lite(quantised: bool, activation: int) -> None:
    data = tiny_yamnet(quantised, activation)
    expected = interpreted(data, SMALL_RANDOM)
    with torch.inference_mode():
        found = tiny(data)(torch.from_numpy(SMALL_RANDOM)).numpy()
    assert expected.std(axis=0).min() > 0.005
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def trained() -> bytes:
    if not TRAINED.exists():
        pytest.skip(f"{TRAINED} is not there: the trained YAMNet is NOT tested")
    return TRAINED.read_bytes()


@pytest.fixture(scope="module")
def weights(trained: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("yamnet") / "yamnet.safetensors"
    safetensors.numpy.save_file(converted(trained), path)
    return str(path)


def test_the_trained_network_equals_tensorflow_lite_on_real_clips(trained: bytes, weights: str, real_videos: list[Path]) -> None:
    hearing = AudioFeatures(model="yamnet", weights=weights)
    scores, embedding = yamnet(hearing), yamnet(hearing.model_copy(update={"output": "embedding"}))
    for clip in real_videos:
        waveform = decode(str(clip), Features(image=None, motion=None, audio=hearing)).waveform
        cut = patches(spectrogram(waveform))
        expected = interpreted(trained, cut)
        (found,) = sound_features(scores, [cut])
        assert found.shape == (521,)
        assert found == pytest.approx(expected.mean(axis=0), abs=1e-3)
        with torch.inference_mode():
            each = scores(torch.from_numpy(np.ascontiguousarray(cut))).numpy()
        assert (np.abs(each - expected).max(axis=1) == 0).mean() > 0.9
        inner = (interpreted(trained, cut, MEAN).astype(np.float32) + 128) * np.float32(0.0233131)
        (found,) = sound_features(embedding, [cut])
        assert found.shape == (1024,)
        assert found == pytest.approx(inner.mean(axis=0), abs=1e-3)


def test_what_it_hears_in_real_clips(weights: str, clip_rows: pa.Table) -> None:
    features = Features(image=None, motion=None, audio=AudioFeatures(model="yamnet", weights=weights))
    networks = load_networks(features, seed=7)
    found = network_rows(decode_rows(clip_rows, resolved(features, networks)), features, networks)
    scores = dict(zip(found["video_id"].to_pylist(), found["audio"].to_pylist(), strict=True))
    assert {video: int(np.argmax(scores[video])) for video in HEARD} == HEARD


@pytest.fixture
def random_weights(tmp_path: Path) -> str:
    safetensors.numpy.save_file(random_state(), tmp_path / "random.safetensors")
    return str(tmp_path / "random.safetensors")


@pytest.mark.parametrize(("output", "size"), [("scores", 521), ("embedding", 1024)])
def test_sounds_of_files_become_vectors(random_weights: str, clip_rows: pa.Table, output: str, size: int) -> None:
    """A sound is what it is alone, whatever is heard beside it; a video without sound has no vector."""
    features = Features(image=None, motion=None, audio=AudioFeatures(model="yamnet", weights=random_weights, output=output))
    networks = load_networks(features, seed=7)
    silent = pa.table({"video_id": ["silent"], "uri": [None], "title": ["a"], "file_version": ["b"]}, clip_rows.schema)
    rows = pa.concat_tables([clip_rows, silent])
    found = network_rows(decode_rows(rows, features), features, networks)["audio"].to_pylist()
    assert [len(vector or []) for vector in found] == [size] * clip_rows.num_rows + [0]
    alone = network_rows(decode_rows(rows.slice(2, 1), features), features, networks)["audio"].to_pylist()
    assert alone[0] == pytest.approx(found[2], abs=1e-5)
    assert np.std([vector for vector in found if vector], axis=0).max() > 1e-3


def test_weights_that_are_none_are_said(tmp_path: Path, random_weights: str) -> None:
    def refused(path: Path | str, reason: str) -> None:
        with pytest.raises(ConfigError, match=rf"features\.audio\.weights: .*{reason}"):
            yamnet(AudioFeatures(model="yamnet", weights=str(path)))

    refused(tmp_path / "nowhere", "can't be opened.*rayrec convert")
    (tmp_path / "a.tflite").write_bytes(b"hello")
    refused(tmp_path / "a.tflite", "is not a YAMNet in safetensors.*rayrec convert")
    state = random_state()
    for change, reason in (
        ({"layers.3.weight": np.zeros((1, 2), np.float32)}, r"layers\.3 has weights of the shape \(1, 2\)"),
        ({"layers.3.weight_scale": np.ones(64, np.float32)}, r"layers\.3 is quantised only in part"),
    ):
        safetensors.numpy.save_file(state | change, tmp_path / "b.safetensors")
        refused(tmp_path / "b.safetensors", reason)
    del state["ceiling"]
    safetensors.numpy.save_file(state, tmp_path / "c.safetensors")
    refused(tmp_path / "c.safetensors", "ceiling")
