"""Fixtures that several packages' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# What tests of several packages share.
pytest_plugins = tuple(f"tests.fixtures.{name}" for name in ("datasets", "media", "ranking", "s3", "topics"))

# Ray reads these when it starts; the defaults make short tests wait, and workers (nice 15) wait for ever on a busy machine.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S", "0.1")
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")


# The files that take longest begin first (`--durations` of `make test` names them), so that no process is left with one at the end.
LONGEST = [
    "tests/test_several_hosts.py",
    "tests/serving/cluster/test_service.py",
    "tests/stages/test_s3.py",
    "tests/serving/cluster/test_uploads.py",
    "tests/test_jobs.py",
    "tests/stages/test_train.py",
    "tests/serving/cluster/test_bucket.py",
    "tests/stages/test_topics.py",
    "tests/stages/test_tune.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))  # all others stay in their order


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One small local Ray for all tests of this process; its address, for subprocesses that join it."""
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a vocabulary of bytes, as `save_pretrained` leaves it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    transformers = pytest.importorskip("transformers", reason="the extra `text` is not installed")
    path = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[CLS]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path)
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(path)
    return path
