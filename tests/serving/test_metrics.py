"""What is counted, how it is passed to Ray, and that the metrics in deploy/ exist."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayrec.serving.cluster import metrics as cluster_metrics
from rayrec.serving.metrics import METRICS, PREFIX, LocalMetrics, exported

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_counters_add_up_and_gauges_stay() -> None:
    numbers = LocalMetrics()
    numbers.count("events_total", 3, kind="click")
    numbers.count("events_total", kind="click")
    numbers.count("events_total", kind="like")
    numbers.set("bundle_loaded", 1, version="a", arm="stable")
    numbers.set("bundle_loaded", 0, arm="stable", version="a")
    assert numbers.value("events_total", kind="click") == 4
    assert numbers.value("events_total", kind="skip") == 0
    assert list(numbers.samples()) == [
        ("events_total", ("click",), 4),
        ("events_total", ("like",), 1),
        ("bundle_loaded", ("a", "stable"), 0),
    ]


def test_a_histogram_is_counters_of_what_is_at_most_a_bound() -> None:
    numbers = LocalMetrics()
    for value in (0.0002, 0.0005, 0.003, 99):
        numbers.observe("step_seconds", value, step="score")
    samples = {(name, *tags): value for name, tags, value in numbers.samples()}
    below = {tags[-1]: samples["step_seconds_bucket", *tags] for name, *tags in samples if name == "step_seconds_bucket"}
    assert (below["0.0005"], below["0.001"], below["0.005"], below["5.0"], below["+Inf"]) == (2, 2, 3, 3, 4)
    assert samples["step_seconds_sum", "score"] == pytest.approx(99.0037)
    assert samples["step_seconds_count", "score"] == 4


@pytest.mark.parametrize(
    ("method", "name", "tags"),
    [
        ("count", "evnts_total", {"kind": "click"}),
        ("count", "events_total", {}),
        ("count", "events_total", {"kind": "click", "arm": "a"}),
        ("set", "events_total", {"kind": "click"}),
        ("observe", "queue_age_seconds", {}),
    ],
)
def test_what_the_table_lacks_is_refused(method: str, name: str, tags: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"there is no .* {name!r} with the tags"):
        getattr(LocalMetrics(), method)(name, 1, **tags)


def test_nothing_is_lost_between_threads() -> None:
    numbers = LocalMetrics()

    def work() -> None:
        for _ in range(2000):
            numbers.count("swaps_refused_total")
            numbers.observe("request_seconds", 0.1, route="/")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers.value("swaps_refused_total") == 8000
    assert {(name, tags): value for name, tags, value in numbers.samples()}["request_seconds_count", ("/",)] == 8000


def test_ray_is_told_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, dict[str, str]]] = []

    class Fake:
        def __init__(self, name: str, help: str, tags: tuple[str, ...]) -> None:
            self.name, self.tags = name, tags

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0  # Ray refuses 0
            assert tuple(tags) == self.tags
            told.append((self.name, value, tags))

        set = inc

    monkeypatch.setattr(cluster_metrics, "Counter", Fake)
    monkeypatch.setattr(cluster_metrics, "Gauge", Fake)
    monkeypatch.setattr(cluster_metrics, "FLUSH_INTERVAL_S", 3600)
    numbers = cluster_metrics.RayMetrics()
    numbers.count("events_total", 3, kind="click")
    numbers.set("queue_age_seconds", 0.5)
    numbers.flush()
    assert told == [("rayrec_events_total", 3, {"kind": "click"}), ("rayrec_queue_age_seconds", 0.5, {})]
    told.clear()
    numbers.count("events_total", 2, kind="click")
    numbers.observe("step_candidates", 600, step="source")
    numbers.flush()
    assert ("rayrec_events_total", 2, {"kind": "click"}) in told
    assert ("rayrec_step_candidates_bucket", 1, {"step": "source", "le": "600"}) in told
    assert ("rayrec_step_candidates_bucket", 1, {"step": "source", "le": "400"}) not in told
    assert ("rayrec_step_candidates_sum", 600, {"step": "source"}) in told
    told.clear()
    numbers.flush()
    assert told == [("rayrec_queue_age_seconds", 0.5, {})]


# --- deploy/ ---


def prometheus_names() -> set[str]:
    """The names that Prometheus sees."""
    ending = {"counter": "_total", "gauge": ""}
    return {f"ray_{PREFIX}{name.removesuffix('_total')}{ending[kind]}" for name, kind, _, _ in exported()}


def queries(tree: Any) -> list[str]:
    """All values of `expr`, wherever they stand."""
    if isinstance(tree, list):
        return [found for each in tree for found in queries(each)]
    if not isinstance(tree, dict):
        return []
    here = [tree["expr"]] if isinstance(tree.get("expr"), str) else []
    return here + [found for each in tree.values() for found in queries(each)]


def test_what_the_dashboard_and_the_alerts_ask_for_exists() -> None:
    board = queries(json.loads((DEPLOY / "grafana" / "rayrec.json").read_text()))
    alerts = queries(yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text()))
    assert len(board) > 10
    assert len(alerts) > 5
    asked = {name for query in board + alerts for name in re.findall(r"ray_rayrec_\w+", query)}
    assert asked <= prometheus_names()
    shown = {name for query in board for name in re.findall(r"ray_rayrec_\w+", query)}
    for metric in METRICS:
        assert any(name.startswith(f"ray_{PREFIX}{metric}") for name in shown), f"the dashboard does not show {metric}"


def test_prometheus_finds_the_alerts() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [(DEPLOY / "prometheus" / name).is_file() for name in config["rule_files"]] == [True]
