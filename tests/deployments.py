"""What the tests of cluster.yaml, serve_config.yaml and deploy/ share."""

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from rayrec.config import Config

# After how long a lost node is noticed: so many checks in a row fail, each after its time, with pauses between them.
HEALTH_CHECKS = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "4",
}


def demands(config: Config) -> Iterator[tuple[str, int, dict[str, float]]]:
    """The processes that a config starts on a cluster: the key, their number, and what each of them reserves."""
    features, training, topics, serving = config.features, config.training, config.topics, config.serving
    yield from _processes("features.decoders", features.decoders, 0)
    yield from _processes("features.models", features.models, features.gpus_per_model)
    yield from _processes("training.workers", training.workers, training.gpus_per_worker)
    yield from _processes("topics.workers", topics.workers, topics.gpus_per_worker)
    if config.private_public is not None:
        yield from _processes("private_public.workers", config.private_public.workers, config.private_public.gpus_per_worker)
    if config.search is not None:
        yield from _processes("search.workers", config.search.workers, config.search.gpus_per_worker)
    yield from _processes("tuning.concurrent", config.tuning.concurrent, training.gpus_per_worker)
    yield from _processes(
        "serving.max_ranker_replicas", serving.max_ranker_replicas or serving.ranker_replicas, serving.gpus_per_ranker
    )


def _processes(key: str, count: int | Literal["auto"], gpus: float) -> Iterator[tuple[str, int, dict[str, float]]]:
    yield key, 1 if count == "auto" else count, {"GPU": gpus} if gpus else {"CPU": 1}


def unknown_keys(value: Any, kind: Any, path: str = "") -> list[str]:
    """The keys in `value`, at any depth, that are no fields of the models in the annotation `kind`. Ray would drop them."""
    arguments = get_args(kind)
    if isinstance(value, list) and get_origin(kind) is list:
        return [key for place, item in enumerate(value) for key in unknown_keys(item, arguments[0], f"{path}[{place}]")]
    if get_origin(kind) in (Union, types.UnionType):
        models = [choice for choice in arguments if _is_model(choice) or get_origin(choice) is list]
        return unknown_keys(value, models[0], path) if models else []
    if not isinstance(value, dict) or not _is_model(kind):
        return []
    found = [f"{path}.{key}" for key in value if key not in kind.model_fields]
    for key in value.keys() & kind.model_fields.keys():
        found += unknown_keys(value[key], kind.model_fields[key].annotation, f"{path}.{key}")
    return found


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
