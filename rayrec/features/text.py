"""Text features: the last hidden states of a Hugging Face transformer, averaged over the tokens of the title.

Weights are read from safetensors only, and no code that comes with a model is run. It needs the extra `text` (transformers).
`minilm` is all-MiniLM-L6-v2, a small encoder of English sentences, whose files come with the extra `weights`; its vectors have
length 1, as in the original. `use` is no transformer: `universal_sentences` has it.
"""

import json
from collections.abc import Iterable

import numpy as np
import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from rayrec.config import PACKAGED, ConfigError, TextFeatures, need_package
from rayrec.features import universal_sentences
from rayrec.features.packaged import PackagedFile
from rayrec.features.universal_sentences import UniversalSentenceEncoder

TITLES_AT_ONCE = 256
MINILM = "minilm"
# Its config, weights and tokenizer.
MINILM_FILES = [
    PackagedFile(PACKAGED[MINILM], f"model/{name}", sha256)
    for name, sha256 in (
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    )
]


class TextNetwork(nn.Module):
    """Turns titles into one vector each, of length 1 if `normalise` is true."""

    def __init__(self, body: nn.Module, tokenizer: Tokenizer, normalise: bool = False) -> None:
        super().__init__()
        self.body, self.tokenizer, self.normalise = body, tokenizer, normalise

    def forward(self, titles: list[str]) -> Tensor:
        """float32 [N, D]"""
        found = self.tokenizer.encode_batch(titles)
        tokens_NT, mask_NT = (
            torch.tensor(numbers, device=self.device)
            for numbers in ([one.ids for one in found], [one.attention_mask for one in found])
        )
        hidden_NTD = self.body(input_ids=tokens_NT, attention_mask=mask_NT).last_hidden_state.float()
        mask_NT1 = mask_NT.unsqueeze(-1)
        mean_ND = (hidden_NTD * mask_NT1).sum(1) / mask_NT1.sum(1).clamp(min=1)
        return nn.functional.normalize(mean_ND) if self.normalise else mean_ND

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def text_network(settings: TextFeatures) -> TextNetwork | UniversalSentenceEncoder:
    """The network, in evaluation mode, on the CPU. Raises `ConfigError` for a model that can't be loaded or is incomplete."""
    if settings.model == universal_sentences.NAME:
        return UniversalSentenceEncoder(settings.max_tokens, f"features.text.model={settings.model}").eval()
    body, subwords = load_transformer(settings.model, "features.text.model")
    tokenizer = Tokenizer.from_str(subwords)
    tokenizer.enable_truncation(settings.max_tokens)
    tokenizer.enable_padding(pad_id=getattr(body.config, "pad_token_id", None) or 0)  # the mask hides the padding, whatever it is
    return TextNetwork(body, tokenizer, normalise=settings.model == MINILM)


def text_features(network: TextNetwork | UniversalSentenceEncoder, titles: list[str | None]) -> list[np.ndarray | None]:
    """float32 [D] for each title; None for a video without a title."""
    present = [title for title in titles if title and title.strip()]
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=network.device.type == "cuda"):
        starts = range(0, len(present), TITLES_AT_ONCE)
        vectors = iter([vector for start in starts for vector in network(present[start : start + TITLES_AT_ONCE]).cpu().numpy()])
    return [next(vectors) if title and title.strip() else None for title in titles]


def load_transformer(model: str, setting: str) -> tuple[nn.Module, str]:
    """A transformer in evaluation mode (`minilm`, a name or the path of a folder), and its tokenizer as a `tokenizers` JSON.

    Raises `ConfigError`, which names `setting`, for a model that can't be loaded or is incomplete.
    """
    if model == universal_sentences.NAME:
        raise ConfigError(
            f"{setting}: {model} is no transformer; set features.text.model to {model} and add text to topics.modalities instead"
        )
    need_package("transformers", "text", setting)
    if model == MINILM:
        config, weights, subwords = (file.read(f"{setting}={model}") for file in MINILM_FILES)
        with torch.random.fork_rng(devices=[]):
            body = transformer_of(config.decode()).eval()
        _refuse_incomplete(setting, model, body.load_state_dict(safetensors.torch.load(weights), strict=False).missing_keys)
        return body, subwords.decode()
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        body, report = AutoModel.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"{setting}: {model} can't be loaded ({str(error).strip().splitlines()[0][:300]}). Give a name that can be downloaded "
            "or the path of a folder with the model's config.json, model.safetensors and tokenizer.json"
        ) from error
    _refuse_incomplete(setting, model, report["missing_keys"])
    if not tokenizer.is_fast:
        raise ConfigError(f"{setting}: {model} has no tokenizer.json; choose a model that has one")
    return body.eval(), tokenizer.backend_tokenizer.to_str()


def _refuse_incomplete(setting: str, model: str, missing: Iterable[str]) -> None:
    """Tensors that the file lacks would be random. Only the pooler may be missing, because it is not used here."""
    absent = [name for name in missing if "pooler" not in name]
    if absent:
        raise ConfigError(f"{setting}: the weights of {model} lack {len(absent)} tensors of the model, such as {sorted(absent)[0]}")


def transformer_of(config: str) -> nn.Module:
    """An untrained transformer, to load weights into, from the config.json of a model."""
    need_package("transformers", "text", "a saved transformer")
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.for_model(**json.loads(config)))
