"""What the service counts and measures: the list of its metrics, and how a replica sums them up.

A replica adds numbers up in its own memory, which takes less than a microsecond for each number. On Ray, `RayMetrics` passes the
sums on once a second. Each node of a cluster then exports them to Prometheus for all of its replicas, with the prefix `ray_` and
the tags `WorkerId` and `NodeAddress` (deploy/ has the configuration). There is no `/metrics`: behind HAProxy each scrape would
reach one arbitrary replica.

A histogram is exported as counters: NAME_bucket with the tag `le`, NAME_sum and NAME_count (Ray appends _total to each).
`histogram_quantile` works on them as usual. Ray's own histograms take 8 us for each number, of which a request has fifteen, and
estimate their sums from their buckets.
"""

import bisect
import itertools
import threading
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

PREFIX = "rayrec_"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COUNTS = (0, 1, 10, 25, 50, 100, 200, 300, 400, 600, 1000)


class Metric(NamedTuple):
    name: str  # without PREFIX
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram: the upper bound of each bucket but the last


METRICS = {
    metric.name: metric
    for metric in (
        Metric("requests_total", "counter", "Requests answered.", ("route", "status")),
        Metric("request_seconds", "histogram", "Time from the arrival of a request to the end of its answer.", ("route",), SECONDS),
        Metric("pages_total", "counter", "Pages recommended.", ("arm",)),
        Metric("pages_failed_total", "counter", "Pages that an arm could not make, or not in time.", ("arm",)),
        Metric("pages_slow_total", "counter", "Pages that took longer than serving.slow_s.", ("arm",)),
        Metric("cold_users_total", "counter", "Pages for users without any click.", ("arm",)),
        Metric("videos_total", "counter", "Videos recommended, by source: topic, popular or new.", ("source",)),
        Metric("step_seconds", "histogram", "Time that a step of a recommendation took.", ("step",), SECONDS),
        Metric("step_candidates", "histogram", "Number of candidates after a step; of videos from select on.", ("step",), COUNTS),
        Metric(
            "events_total",
            "counter",
            "Events by kind, also repeated ones and the impressions of pages; or `refused`, or `duplicate`.",
            ("kind",),
        ),
        Metric("searches_total", "counter", "Searches answered, by kind: text, picture or sound.", ("kind",)),
        Metric("music_total", "counter", "Requests for music answered, by what they name: a video or its vectors.", ("kind",)),
        Metric(
            "uploads_total",
            "counter",
            "Videos sent: added, known, waiting, rejected (the file) or refused.",
            ("outcome",),
        ),
        Metric("impressions_lost_total", "counter", "Impressions of answered pages that the store could not write."),
        Metric("queue_age_seconds", "gauge", "Time since the queues last took in the events."),
        Metric("event_lag_seconds", "gauge", "Time from the arrival of the newest event until the queues contained it."),
        Metric("bundle_loaded", "gauge", "1 for a bundle in use, 0 for one that is no longer in use.", ("version", "arm")),
        Metric(
            "swaps_refused_total",
            "counter",
            "Bundles that could not be loaded; the previous bundle stayed in use.",
        ),
    )
}
Series = tuple[str, tuple[str, ...]]  # a metric's name and its tags' values, in the order of `Metric.tags`


class Metrics(Protocol):
    """Every method may be called from any thread. It raises `ValueError` if METRICS has no metric of this name with these tags."""

    def count(self, name: str, value: float = 1, **tags: str) -> None:
        """Adds to a counter."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """Sets a gauge."""

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Adds one number to a histogram."""


class LocalMetrics:
    """Numbers that stay in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Series, float] = {}  # of counters and gauges
        self._histograms: dict[Series, tuple[list[int], list[float]]] = {}  # count of each bucket, and [the sum]

    def count(self, name: str, value: float = 1, **tags: str) -> None:
        series = _series(name, "counter", tags)
        with self._lock:
            self._values[series] = self._values.get(series, 0.0) + value

    def set(self, name: str, value: float, **tags: str) -> None:
        series = _series(name, "gauge", tags)
        with self._lock:
            self._values[series] = value

    def observe(self, name: str, value: float, **tags: str) -> None:
        series, bounds = _series(name, "histogram", tags), METRICS[name].buckets
        with self._lock:
            found = self._histograms.get(series)
            if found is None:
                found = self._histograms[series] = [0] * (len(bounds) + 1), [0.0]
            found[0][bisect.bisect_left(bounds, value)] += 1
            found[1][0] += value

    def value(self, name: str, **tags: str) -> float:
        """The value of a counter or gauge; 0 if it has never been set."""
        return self._values.get(_series(name, METRICS[name].kind, tags), 0.0)

    def samples(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Name, values of the tags, and value of everything; histograms as counters, whose last tag is `le`."""
        with self._lock:
            values = list(self._values.items())
            histograms = [(series, list(counts), total[0]) for series, (counts, total) in self._histograms.items()]
        for (name, tags), value in values:
            yield name, tags, value
        for (name, tags), counts, total in histograms:
            for bound, below in zip((*METRICS[name].buckets, "+Inf"), itertools.accumulate(counts), strict=True):
                yield f"{name}_bucket", (*tags, str(bound)), below
            yield f"{name}_sum", tags, total
            yield f"{name}_count", tags, sum(counts)


def _series(name: str, kind: str, tags: dict[str, str]) -> Series:
    metric = METRICS.get(name)
    if metric is None or metric.kind != kind or len(tags) != len(metric.tags) or not all(tag in tags for tag in metric.tags):
        raise ValueError(f"there is no {kind} {name!r} with the tags {sorted(tags)}; see METRICS in serving/metrics.py")
    return name, tuple([tags[tag] for tag in metric.tags])


def exported() -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Name, kind, help and tags of everything that is exported to Prometheus."""
    for name, kind, help, tags, _ in METRICS.values():
        if kind != "histogram":
            yield name, kind, help, tags
        else:
            yield f"{name}_bucket", "counter", help, (*tags, "le")
            yield f"{name}_sum", "counter", help, tags
            yield f"{name}_count", "counter", help, tags
