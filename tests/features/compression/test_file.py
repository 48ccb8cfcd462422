"""The file of a compressed network: an exact round trip, its size, and files that are damaged or hostile."""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayrec.config import Compression, ConfigError
from rayrec.features.compression import file
from rayrec.features.compression.file import PREFIX, CompressedFileError, SharedWeights, in_words, read, read_facts, write

RNG = np.random.default_rng(11)
FACTS = {"original_bytes": 1000, "weights": "trained (torchvision)"}


def shared(shape: tuple[int, ...], keep: float, values: int) -> SharedWeights:
    size = int(np.prod(shape))
    places = np.sort(RNG.permutation(size)[: round(keep * size)])
    codebook = RNG.normal(size=values).astype(np.float32)
    return SharedWeights(shape, codebook, places, RNG.integers(0, values, len(places)).astype(np.uint8))


TENSORS = {
    "dense": shared((7, 3, 3, 3), 1.0, 256),
    "half": shared((64, 32, 3, 3), 0.5, 32),
    "sparse": shared((300, 70), 0.002, 4),  # gaps of more than 255 zeros
    "one value": shared((5, 5), 0.6, 1),
    "nothing": shared((4,), 0.0, 2),
    "number": shared((), 1.0, 1),
}
PLAIN = {"bias": RNG.normal(size=7).astype(np.float32), "empty": np.empty((0, 3), np.float32)}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()} | {name: array.shape for name, array in PLAIN.items()}
DATA = write(FACTS, TENSORS, PLAIN)


def resealed(change: Callable[[dict[str, Any]], object], data: bytes = DATA) -> bytes:
    """The file with another header and a checksum that fits: what somebody with bad intentions would write."""
    size = int.from_bytes(data[8:12], "little")
    facts = json.loads(zlib.decompress(data[PREFIX : PREFIX + size]))
    change(facts)
    return sealed(zlib.compress(json.dumps(facts).encode()), data[PREFIX + size :])


def sealed(header: bytes, body: bytes) -> bytes:
    rest = header + body
    return DATA[:8] + len(header).to_bytes(4, "little") + hashlib.sha256(rest).digest() + rest


def test_all_weights_come_back_exactly() -> None:
    found = read(DATA, SHAPES)
    assert found.facts["weights"] == FACTS["weights"]
    assert list(found.tensors) == [*TENSORS, *PLAIN]
    for name, tensor in TENSORS.items():
        expected = np.zeros(int(np.prod(tensor.shape)), np.float32)
        for place, index in zip(tensor.places, tensor.indices, strict=True):
            expected[place] = tensor.codebook[index]
        assert found.tensors[name].dtype == np.float32
        assert found.tensors[name].tobytes() == expected.tobytes(), name
        assert found.tensors[name].shape == tensor.shape
    for name, array in PLAIN.items():
        assert found.tensors[name].tobytes() == array.astype(np.float16).astype(np.float32).tobytes()
    assert write(FACTS, TENSORS, PLAIN) == DATA


def test_it_is_about_as_short_as_entropy_allows() -> None:
    """Where weights are zero with a probability of a half, a weight needs 1 bit for that, and half of them log2(values) bits."""
    weights = 64 * 32 * 9
    bits = 8 * read(DATA, SHAPES).sizes["half"]
    entropy = weights * (1 + 0.5 * 5) + 32 * 32
    assert entropy * 0.99 < bits < entropy * 1.06


def test_where_few_weights_are_zero_it_is_one_of_the_values() -> None:
    """A code for the gaps would take a bit for each weight that is left, and the values theirs besides."""
    counts = np.array([3000, 9000, 6000, 4000, 2000, 500, 200, 20])
    values = RNG.permutation(np.repeat(np.arange(8), counts))
    places = np.flatnonzero(values)
    tensor = SharedWeights(values.shape, RNG.normal(size=7).astype(np.float32), places, (values[places] - 1).astype(np.uint8))
    data = write({}, {"few zeros": tensor}, {})
    found = read(data, {"few zeros": tensor.shape})
    assert found.tensors["few zeros"].tobytes() == tensor.dense().tobytes()
    assert read_facts(data)["tensors"][0]["values"] == 8
    shares = counts / counts.sum()
    entropy = -(shares * np.log2(shares)).sum() * len(values)
    assert entropy < 8 * found.sizes["few zeros"] < entropy * 1.06
    assert read_facts(DATA)["tensors"][2]["values"] == 4  # most of its weights are zero


def test_files_that_are_cut_off_or_changed_are_refused() -> None:
    for size in [*range(60), len(DATA) // 2, len(DATA) - 1]:
        with pytest.raises(CompressedFileError, match="cut off"):
            read(DATA[:size], SHAPES)
    for place in [44, 60, len(DATA) - 1, *RNG.integers(12, len(DATA), 20).tolist()]:
        changed = bytearray(DATA)
        changed[place] ^= 1 << int(RNG.integers(8))
        with pytest.raises(CompressedFileError, match="SHA-256 differs"):
            read(bytes(changed), SHAPES)
    with pytest.raises(CompressedFileError, match="does not begin with rayrec_z"):
        read(b"PK" + DATA[2:], SHAPES)
    with pytest.raises(CompressedFileError, match="bytes too many"):
        read(resealed(lambda facts: facts["tensors"].pop(-2)), {name: shape for name, shape in SHAPES.items() if name != "bias"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda facts: facts["tensors"][0].update(shape=[10**12]), "tensor dense has the shape"),
        (lambda facts: facts["tensors"][1].update(name="another"), "tensor another has the shape"),
        (lambda facts: facts["tensors"].append(facts["tensors"][0]), "names a tensor twice"),
        (lambda facts: facts["tensors"][1]["gaps"].__setitem__(1, 10**15), "10{15} symbols"),
        (lambda facts: facts["tensors"][1]["gaps"].__setitem__(2, 10**15), "more bytes behind"),
        (lambda facts: facts["tensors"][1]["gaps"].__setitem__(1, -5), "-5 symbols"),
        (lambda facts: facts["tensors"][1]["indices"].__setitem__(0, 255), "an alphabet of 255"),
        (lambda facts: facts["tensors"][1]["indices"].__setitem__(1, 3), "bytes too many"),
        (lambda facts: facts["tensors"][1].update(values=2**40), "a codebook has"),
        (lambda facts: facts["tensors"][1].update(values=16), "a stream has"),
        (lambda facts: facts["tensors"][1].update(gaps="many"), "does not describe tensors"),
        (lambda facts: facts["tensors"].__setitem__(0, 7), "does not describe tensors"),
        (lambda facts: facts["tensors"][0].pop("name"), "does not describe tensors"),
        (lambda facts: facts.update(tensors=3), "header is none of"),
        (lambda facts: facts.update(format=2), "it has format 2"),
        (lambda facts: facts.pop("format"), "it has format None"),
    ],
)
def test_headers_that_lie_are_refused(change: Callable[[dict[str, Any]], object], reason: str) -> None:
    with pytest.raises(CompressedFileError, match=reason):
        read(resealed(change), SHAPES)


def test_headers_that_are_none_are_refused() -> None:
    for header in (b"", b"no zlib", zlib.compress(b"[]"), zlib.compress(b"{"), zlib.compress(b"\xff\xfe")):
        with pytest.raises(CompressedFileError, match="header"):
            read_facts(sealed(header, b""))
    bomb = zlib.compress(b" " * (file.MAX_HEADER + 100))
    with pytest.raises(CompressedFileError, match="header"):
        read_facts(sealed(bomb, b""))


def test_weights_behind_the_end_of_a_tensor_are_refused() -> None:
    beyond = SharedWeights((1000,), np.ones(1, np.float32), np.array([3, 900]), np.zeros(2, np.uint8))
    lying = resealed(lambda facts: facts["tensors"][0].update(shape=[30, 30]), write(FACTS, {"a": beyond}, {}))
    with pytest.raises(CompressedFileError, match="the places of 2 weights"):
        read(lying, {"a": (30, 30)})


def test_the_config_names_a_file(tmp_path: Path) -> None:
    path = tmp_path / "network.rrz"
    path.write_bytes(DATA)
    assert in_words(Compression(file=str(path))) == f"compressed {1000 / len(DATA):.1f}x, from trained (torchvision)"
    with pytest.raises(
        ConfigError, match=r"compression\.file=.*none\.rrz: .*there is no such file; `rayrec compress CONFIG` makes it"
    ):
        in_words(Compression(file=str(tmp_path / "none.rrz")))
    path.write_bytes(DATA[:100])
    with pytest.raises(ConfigError, match=r"compression\.file=.*network\.rrz: it is damaged or cut off"):
        in_words(Compression(file=str(path)))
